"""One case looked at: every file of it is read once, every fault is noted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.errors import IsletError
from imaging.geometry import Geometry
from imaging.read import read_volume
from imaging.volume import Volume, to_canonical
from models.labels import BY_NAME, STRUCTURES, label_value, values
from training.cases import LAYERS, Case
from training.check.anatomy import PLAUSIBLE, RELATION_MM, RELATIONS

# Takes the code of a finding and its cause.
Note = Callable[[str, str], None]

# What a manifest takes as a spacing, and what scanners make.
_SPACING_MM = (0.1, 20.0)
# A guess at what is too thin a slab to learn an organ's shape from.
_MIN_SLICES = 10
# Fat to muscle alone is some 150 HU; images scaled to 0..1 or to unit variance have far less.
_MIN_SPAN_HU = 200
# Paddings go down to a few thousand below air, the extended scale for metal up to 30,710.
_EXTREME_HU = (-10_000, 32_000)


@dataclass(frozen=True)
class Facts:
    """What the checks across cases need to know of a case.

    Attributes:
        spacing: mm along (S, P, L); ``None`` where the CT could not be read.
        digest: of the CT's voxels, see :func:`digest`.
        present: structures that its labels hold; ``None`` where they could not be read.
        unnamed: label values that mean no structure.
    """

    spacing: tuple[float, float, float] | None
    digest: str | None
    present: frozenset[str] | None
    unnamed: frozenset[int]


@dataclass(frozen=True)
class _Region:
    """A structure in the labels: its voxels, their centre in mm (S, P, L), the CT in them."""

    voxels: int
    centre: NDArray[np.float64]
    median_hu: float | None
    inside: bool


def look(case: Case, note: Note) -> Facts:
    """Read a case once and note everything that is wrong with it.

    Args:
        case: whose files need not be there.
        note: called for each finding.
    """
    image = read(case.image, "unreadable_image", note)
    labels, unnamed = _read_labels(case, image.geometry if image else None, note)
    if image:
        _check_grid(image.geometry, note)
        _check_hu(image.array, note)
    present = None
    if labels:
        regions = _regions(labels, image.array if image else None)
        present = frozenset(regions)
        _check_present(case, present, note)
        _check_regions(regions, labels.geometry, note)
        _check_places(regions, note)
    return Facts(
        image.geometry.spacing if image else None,
        digest(image) if image else None,
        present,
        unnamed,
    )


def read(path: Path, unreadable: str, note: Note) -> Volume | None:
    """The file's voxels, axes closest to (S, P, L); what is wrong with it is noted.

    Args:
        path: of a CT or a label.
        unreadable: code of the finding where it cannot be read.
        note: called for each finding.
    """
    if not path.exists():
        note("missing_file", f"there is no {path.name}")
        return None
    try:
        volume = read_volume(path)
    except (IsletError, OSError) as error:
        note(unreadable, f"{path.name}: {error}")
        return None
    for warning in volume.warnings:
        note("corrected", f"{path.name}: {warning}")
    return to_canonical(volume)


def digest(canonical: Volume) -> str:
    """The same for the same voxels, whole HU, however and in whatever file they are stored.

    Args:
        canonical: axes closest to (S, P, L).
    """
    array = canonical.array
    if array.dtype != np.int16:
        array = np.clip(np.rint(array), -(2**15), 2**15 - 1).astype(np.int16)
    found = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    for plane in array:
        found.update(np.ascontiguousarray(plane).data)
    return found.hexdigest()


def _check_grid(grid: Geometry, note: Note) -> None:
    low, high = _SPACING_MM
    if min(grid.spacing) < low or max(grid.spacing) > high:
        note("wrong_spacing", f"{_mm(grid.spacing)} is outside {low:g} to {high:g} mm")
    if grid.shape[0] < _MIN_SLICES:
        note("too_few_slices", f"{grid.shape[0]} slices, at least {_MIN_SLICES} are expected")


def _check_hu(hu: NDArray[Any], note: Note) -> None:
    low, high = float(hu.min()), float(hu.max())
    span = f"voxels from {low:g} to {high:g}"
    if low == high:
        note("constant_image", f"every voxel is {low:g}")
    elif high - low < _MIN_SPAN_HU:
        note("narrow_range", f"{span} are no CT in Hounsfield units")
    elif low >= 0:
        note("not_hounsfield", f"{span}: neither air nor fat, as in unrescaled values")
    elif low < _EXTREME_HU[0] or high > _EXTREME_HU[1]:
        note("extreme_hu", f"{span} reach beyond {_EXTREME_HU[0]} to {_EXTREME_HU[1]} HU")


def _read_labels(
    case: Case, grid: Geometry | None, note: Note
) -> tuple[Volume | None, frozenset[int]]:
    """The case's labels as Islet's values, ``None`` unless every file fits, and unnamed values."""
    merged: NDArray[np.uint8] | None = None
    unnamed: set[int] = set()
    whole = True
    for name, path in _label_files(case):
        stored = read(path, "unreadable_label", note)
        array = None
        if stored is not None:
            grid = grid or stored.geometry
            array = _whole_numbers(stored.array, path.name, note)
            if not _fits(stored.geometry, grid, path.name, note):
                array = None
        if array is None or grid is None:
            whole = False
            continue
        table, unknown = _table(case, name, array, path.name, note)
        unnamed |= unknown
        merged = np.zeros(grid.shape, np.uint8) if merged is None else merged
        drawn = table[array]
        np.copyto(merged, drawn, where=drawn > 0)
    if merged is None or grid is None or not whole:
        return None, frozenset(unnamed)
    return Volume(merged, grid), frozenset(unnamed)


def _label_files(case: Case) -> Iterator[tuple[str | None, Path]]:
    """The label map, or each mask with its structure; lesions after the organs they lie in."""
    if case.label is not None:
        yield None, case.label
    for structure in LAYERS:
        for path in case.masks.get(structure.name, ()):
            yield structure.name, path


def _fits(stored: Geometry, grid: Geometry, name: str, note: Note) -> bool:
    """Whether a label lies on the CT's grid, as ``training.cases.load`` asks for."""
    tolerance = 0.1 * min(grid.spacing)
    if stored.close_to(grid, tolerance):
        return True
    extent = np.array(grid.shape) * grid.spacing
    steps = np.abs(np.subtract(stored.spacing, grid.spacing)) * grid.shape
    turn = np.abs(stored.direction - grid.direction).max(0) * extent
    if stored.shape != grid.shape:
        note("shape_mismatch", f"{name} has {stored.shape} voxels, the CT {grid.shape}")
    elif steps.max() > tolerance:
        note("spacing_mismatch", f"{name} has {_mm(stored.spacing)}, the CT {_mm(grid.spacing)}")
    elif turn.max() > tolerance:
        note(
            "direction_mismatch",
            f"{name} has axes {_axes(stored)}, the CT {_axes(grid)} (S, P, L in LPS)",
        )
    else:
        note(
            "origin_mismatch",
            f"{name} begins at {_mm(stored.origin)}, the CT at {_mm(grid.origin)}",
        )
    return False


def _whole_numbers(stored: NDArray[Any], name: str, note: Note) -> NDArray[np.uint8] | None:
    low, high = float(stored.min()), float(stored.max())
    if stored.dtype.kind == "f":
        for plane in stored:
            broken = plane[np.rint(plane) != plane]
            if broken.size:
                note("label_not_whole", f"{name} holds {float(broken[0]):g}")
                return None
    if low < 0 or high > 255:
        note("label_out_of_range", f"{name} holds values from {low:g} to {high:g}")
        return None
    return np.ascontiguousarray(stored, np.uint8)


def _table(
    case: Case, name: str | None, array: NDArray[np.uint8], file: str, note: Note
) -> tuple[NDArray[np.uint8], set[int]]:
    """Islet's value for each stored one, and the stored ones that mean nothing."""
    # A plane at a time: bincount makes eight bytes of every voxel.
    counts = sum(np.bincount(plane.ravel(), minlength=256) for plane in array)
    found = {int(v) for v in np.flatnonzero(counts)} - {0}
    meanings = case.values if name is None else {1: name}
    table = np.zeros(256, np.uint8)
    for value, structure in meanings.items():
        table[value] = label_value(structure)
    unknown = found - set(meanings)
    if unknown and name is not None:
        note("mask_not_binary", f"{file} holds {_list(unknown)}")
        unknown = set()
    return table, unknown


def _regions(labels: Volume, hu: NDArray[Any] | None) -> dict[str, _Region]:
    """The structures that are there, by name."""
    found = {}
    for structure, box in zip(STRUCTURES, _boxes(labels.array), strict=True):
        if box is None:
            continue
        mask = labels.array[box] == structure.value
        start = np.array([b.start for b in box])
        stop = np.array([b.stop for b in box])
        voxels = int(np.count_nonzero(mask))
        centre = [
            np.arange(n) @ mask.sum(axis=tuple({0, 1, 2} - {axis})) / voxels
            for axis, n in enumerate(mask.shape)
        ]
        found[structure.name] = _Region(
            voxels,
            (start + centre) * labels.geometry.spacing,
            None if hu is None else float(np.median(hu[box][mask])),
            bool((start > 0).all() and (stop < labels.array.shape).all()),
        )
    return found


def _boxes(labels: NDArray[np.uint8]) -> list[tuple[slice, slice, slice] | None]:
    """The box around each structure's voxels, in the order of ``STRUCTURES``."""
    boxes = ndimage.find_objects(labels, max_label=255)
    return [boxes[structure.value - 1] for structure in STRUCTURES]


def _check_present(case: Case, present: frozenset[str], note: Note) -> None:
    if present & set(case.annotated):
        return
    # A set that stores masks has a file for every structure, in view or not; a label map without
    # a label is rather one that nobody drew.
    code = "empty_masks" if case.masks else "empty_label"
    note(code, f"no voxel of {', '.join(case.annotated)}")


def _check_regions(regions: dict[str, _Region], grid: Geometry, note: Note) -> None:
    by_value = {BY_NAME[name].value: region for name, region in regions.items()}
    for name, region in regions.items():
        low, high = PLAUSIBLE[name].hu
        median = region.median_hu
        if median is not None and not low <= median <= high:
            note("organ_hu", f"the median of {name} is {median:g} HU, not {low:g} to {high:g}")
        parts = [by_value[v] for v in values(name) if v in by_value]
        ml = sum(part.voxels for part in parts) * grid.voxel_ml
        least, most = PLAUSIBLE[name].ml
        if ml > most or (ml < least and all(part.inside for part in parts)):
            note("organ_volume", f"{name} has {ml:.3g} ml, not {least:g} to {most:g}")


def _check_places(regions: dict[str, _Region], note: Note) -> None:
    for relation in RELATIONS:
        if not {relation.first, relation.second} <= set(regions):
            continue
        first, second = regions[relation.first], regions[relation.second]
        beyond = float(first.centre[relation.axis] - second.centre[relation.axis])
        if beyond > RELATION_MM:
            note(
                "orientation",
                f"{relation.first} should lie {relation.place} {relation.second} but lies "
                f"{beyond:.0f} mm beyond it",
            )


def _mm(numbers: tuple[float, ...]) -> str:
    return f"({', '.join(f'{n:.4g}' for n in numbers)}) mm"


def _axes(grid: Geometry) -> list[list[float]]:
    found: list[list[float]] = np.round(grid.direction.T, 3).tolist()
    return found


def _list(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
