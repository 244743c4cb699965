"""CTs that are sound files of the wrong thing: no abdomen, no CT, too little or too much of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.trials.forged.case import SEED, Answer, Case
from imaging.geometry import Geometry
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from training.phantoms import STRANGERS, make_phantom, make_stranger
from training.phantoms.styles import STYLES

FAMILY = "ct"

_AXIAL = np.eye(3)[:, ::-1]
_SIDES = (32, 48, 48)
_USUAL = (5.0, 5.0, 5.0)
_AIR = -1024

Triple = tuple[float, float, float]
Make = Callable[[], Volume]


def cases() -> Iterator[Case]:
    """All of the family."""
    yield from _no_abdomen()
    yield from _one_value()
    yield from _no_ct()
    yield from _sizes()
    yield from _directions()


@cache
def abdomen() -> Volume:
    """A phantom of an abdomen, coarse; the same one every time."""
    style = STYLES["a-thin-portal"]
    return make_phantom(SEED, style, shape=(40, 80, 80), spacing_mm=(5.0, 4.5, 4.5)).volume


def _of(array: NDArray[Any], spacing: Triple = _USUAL, direction: NDArray[Any] = _AXIAL) -> Volume:
    shape = (array.shape[0], array.shape[1], array.shape[2])
    return Volume(array, Geometry(shape, spacing, (0.0, 0.0, 0.0), direction))


def _case(name: str, make: Make, expected: str | Answer) -> Case:
    def write(folder: Path) -> Path:
        path = folder / "ct.nii.gz"
        write_nifti(make(), path)
        return path

    return Case(f"{FAMILY}: {name}", FAMILY, write, expected)


def _no_abdomen() -> Iterator[Case]:
    """Of something else; the service shall say so."""
    for kind in STRANGERS:
        made = partial(make_stranger, kind, SEED, (6.0, 6.0, 6.0))
        yield _case(f"{kind} alone", made, Answer((36, 50, 63), nothing_here=True))
    yield _case("a plate of plastic with rods", _plate, Answer(_SIDES, nothing_here=True))
    yield _case("a table without anybody", _table, Answer(_SIDES, nothing_here=True))
    yield _case("an abdomen", abdomen, Answer((40, 80, 80), nothing_here=False))


def _plate() -> Volume:
    hu = np.full(_SIDES, _AIR, np.int16)
    hu[:, 14:34, 6:42] = 120
    for place, value in enumerate((-800, -90, 0, 300, 1000)):
        hu[:, 20:26, 8 + 7 * place : 13 + 7 * place] = value
    return _of(hu)


def _table() -> Volume:
    hu = np.full(_SIDES, _AIR, np.int16)
    hu[:, 40:43, 8:40] = -300
    return _of(hu)


def _one_value() -> Iterator[Case]:
    for value in (-32768, -3024, -1024, 0, 60, 3071, 32767):
        make = partial(_filled, value)
        bounds = (float(value), float(value))
        yield _case(f"{value} everywhere", make, Answer(_SIDES, _USUAL, bounds, nothing_here=True))
    yield _case("NaN everywhere", partial(_filled, np.nan, np.float32), "bad_voxels")
    air = ("not finite",)
    yield _case("a slice of NaN", _slice_of_nan, Answer((40, 80, 80), says=air))


def _filled(value: float, dtype: type[Any] = np.int16) -> Volume:
    return _of(np.full(_SIDES, value, dtype))


def _slice_of_nan() -> Volume:
    volume = abdomen()
    array = volume.array.astype(np.float32)
    array[20] = np.nan
    return volume.with_array(array)


def _no_ct() -> Iterator[Case]:
    """Values that are no Hounsfield units; NIfTI does not say what they are."""
    rng = np.random.default_rng(SEED)
    noise = rng.integers(-1024, 3071, _SIDES).astype(np.int16)
    yield _case("noise", partial(_of, noise), Answer(_SIDES, nothing_here=True))
    uptake = rng.gamma(1.0, 2.0, _SIDES).astype(np.float32)
    yield _case("a PET", partial(_of, uptake), Answer(_SIDES, nothing_here=True))
    changes: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "an MR": lambda hu: np.clip((hu + 200) * 2, 0, 900),
        "a CT without its intercept": lambda hu: hu + 1024,
        "a CT of inverted values": lambda hu: -hu,
        "a CT of a thousandth of the values": lambda hu: hu // 1000,
        "a label map": lambda hu: hu > 0,
    }
    for name, change in changes.items():
        yield _case(name, partial(_like_abdomen, change), Answer((40, 80, 80)))


def _like_abdomen(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Volume:
    volume = abdomen()
    return volume.with_array(change(volume.array).astype(np.int16))


def _sizes() -> Iterator[Case]:
    """Too few slices, too many, too fine, too coarse."""
    for name, shape, spacing in (
        ("two slices", (2, 64, 64), (5.0, 5.0, 5.0)),
        ("eight voxels", (2, 2, 2), (5.0, 5.0, 5.0)),
        ("two rows", (64, 2, 64), (5.0, 5.0, 5.0)),
        ("3000 slices", (3000, 8, 8), (1.0, 5.0, 5.0)),
        ("3000 slices of a tenth of a mm", (3000, 8, 8), (0.1, 5.0, 5.0)),
        ("3000 columns", (4, 4, 3000), (5.0, 5.0, 1.0)),
        ("voxels of a tenth of a mm", (64, 64, 64), (0.1, 0.1, 0.1)),
        ("voxels of a hundredth of a mm", (32, 32, 32), (0.01, 0.01, 0.01)),
        ("voxels of a micrometre", (32, 32, 32), (0.001, 0.001, 0.001)),
        ("voxels of 20 mm", (16, 24, 24), (20.0, 20.0, 20.0)),
        ("thick slices of fine pixels", (16, 128, 128), (20.0, 0.1, 0.1)),
        ("thin slices of coarse pixels", (128, 16, 16), (0.1, 20.0, 20.0)),
        ("slices of 50 mm", (8, 8, 8), (50.0, 5.0, 5.0)),
    ):
        yield _case(name, partial(_blank, shape, spacing), Answer(shape, spacing))
    for name, shape, spacing, code in (
        ("one slice", (1, 64, 64), (5.0, 5.0, 5.0), "bad_shape"),
        ("3000 slices of 2 mm", (3000, 8, 8), (2.0, 5.0, 5.0), "bad_geometry"),
        ("voxels of 200 mm", (8, 4, 4), (200.0, 200.0, 200.0), "bad_geometry"),
        ("slices of 10 m", (2, 8, 8), (10_000.0, 5.0, 5.0), "bad_geometry"),
        ("pixels of a kilometre", (8, 2, 2), (5.0, 1e6, 1e6), "bad_geometry"),
        ("40 million voxels", (40, 1000, 1000), (5.0, 0.5, 0.5), "input_too_large"),
    ):
        yield _case(name, partial(_blank, shape, spacing), code)


def _blank(shape: tuple[int, int, int], spacing: Triple) -> Volume:
    """Water in air, in blocks, so that there is something to look at."""
    hu = np.full(shape, _AIR, np.int16)
    hu[tuple(slice(n // 4, max(1, -(-3 * n // 4))) for n in shape)] = 40
    return _of(hu, spacing)


def _directions() -> Iterator[Case]:
    """An abdomen stored along other axes."""
    for name, axes in (
        ("coronal", (1, 0, 2)),
        ("sagittal", (2, 0, 1)),
        ("upside down", (0, 1, 2)),
    ):
        sides = (40, 80, 80)
        shape = (sides[axes[0]], sides[axes[1]], sides[axes[2]])
        yield _case(f"stored {name}", partial(_stored, axes), Answer(shape, nothing_here=False))
    yield _case("turned by 45 degrees", _turned, Answer((40, 80, 80)))


def _stored(axes: tuple[int, int, int]) -> Volume:
    volume = abdomen()
    flips = (True, True, False) if axes == (0, 1, 2) else (False, False, False)
    array = volume.array.transpose(axes)
    array = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return Volume(np.ascontiguousarray(array), volume.geometry.transposed(axes, flips))


def _turned() -> Volume:
    volume = abdomen()
    half = np.sqrt(0.5)
    turn = np.array([[half, -half, 0], [half, half, 0], [0, 0, 1]])
    geometry = volume.geometry
    turned = Geometry(geometry.shape, geometry.spacing, geometry.origin, turn @ geometry.direction)
    return Volume(volume.array, turned)
