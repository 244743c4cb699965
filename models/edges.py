"""A network's masks on a CT's grid, with their edges where the CT has them.

A small network knows what is where, but not to the millimetre. Around each organ, the odds that a
voxel is part of it are those of the network's mask, blurred by as much as its edges may be off,
times how much more often its brightness is found inside that organ than around it (Bayes' rule).
Which brightness is found where is learned from the CT at hand, by expectation maximisation
(Dempster et al. 1977): no contrast phase and no scanner is assumed, and where an organ is as bright
as what it lies in, its mask is smoothed and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.geometry import Geometry
from imaging.resample import linear_slices, resample_nearest
from imaging.threads import usable_cores
from imaging.volume import Volume
from models.labels import STRUCTURES, Structure
from models.postprocess import bounding_box

# Brightness is counted in so many steps from the image's least to its greatest, and the counts are
# smoothed over this many of them, so that a small organ's few voxels make a distribution.
_STEPS, _SMOOTH = 80, 1.5
# Rounds of learning; more change no mask by Dice 0.002 (docs/log.md).
_ROUNDS = 4
# Nothing is so rare on either side that it decides alone; brightness changes log odds by this much
# at most, and voxels with no chance by the mask's own odds are not counted.
_RARE, _MOST = 2e-3, 4.0
# Log odds are not taken to be further from even: farther in or out nothing can change.
_FAR = 6.0
# As many standard deviations of a blur reach.
_REACH = 4

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class _Organ:
    """Log odds of one organ, its lesions in it, in a box of the network's grid."""

    value: int
    box: Box
    odds: NDArray[np.float32]


def place(labels: Volume, image: NDArray[np.float32], edge_mm: float, grid: Geometry) -> Volume:
    """A label map on the CT's grid.

    Lesions stay as they are, and are part of their organs; every organ's edge follows the CT.

    Args:
        labels: uint8 values of ``models.labels`` on the network's grid.
        image: what the network saw there (Z, Y, X).
        edge_mm: how far the edges may be off, one standard deviation; with 0 every voxel of the
            CT has the nearest label.
        grid: of the CT.
    """
    if edge_mm <= 0:
        return resample_nearest(labels, grid)
    labels, image = _near(labels, image, edge_mm)
    organs = _organs(labels, image, edge_mm)
    rest = _among([organ.value for organ in organs])[labels.array]
    result = resample_nearest(labels.with_array(np.where(rest, np.uint8(0), labels.array)), grid)
    found = result.array
    for organ, margin in _margins(organs, image.shape):
        there = Volume(margin, labels.geometry.crop(*_corner(organ.box)))
        box = _on(there.geometry, grid)
        if box is not None:
            mark = partial(_mark, found[box], organ.value)
            linear_slices(there, grid.crop(*_corner(box)), -_FAR, mark)
    return result


def _mark(found: NDArray[np.uint8], value: int, z: int, odds: NDArray[np.float32]) -> None:
    """Give a slice's voxels that are likely an organ's its value; what is taken is a lesion."""
    np.copyto(found[z], np.uint8(value), where=(odds > 0) & (found[z] == 0))


def _near(
    labels: Volume, image: NDArray[np.float32], edge_mm: float
) -> tuple[Volume, NDArray[np.float32]]:
    """Both, cut down to what an edge of any structure may reach."""
    tight = bounding_box(labels.array > 0)
    if tight is None:
        return labels, image
    sides = zip(tight, labels.geometry.spacing, image.shape, strict=True)
    z, y, x = (_grown(side, edge_mm / step, n) for side, step, n in sides)
    part = labels.geometry.crop(*_corner((z, y, x)))
    return Volume(labels.array[z, y, x], part, labels.warnings), image[z, y, x]


def _organs(labels: Volume, image: NDArray[np.float32], edge_mm: float) -> list[_Organ]:
    """The organs of a label map that have voxels of their own; several at a time."""
    sigmas = [edge_mm / step for step in labels.geometry.spacing]
    low, high = float(image.min()), float(image.max())
    bright = (image - low) * (_STEPS / max(high - low, 1e-6))
    steps = np.minimum(bright, _STEPS - 1, out=bright).astype(np.uint8)
    there = np.bincount(labels.array.ravel(), minlength=256)

    def organ_of(organ: Structure) -> _Organ:
        parts = _among([organ.value, *(s.value for s in STRUCTURES if s.parent == organ.name)])
        tight = bounding_box(parts[labels.array])
        assert tight is not None
        sides = zip(tight, sigmas, image.shape, strict=True)
        z, y, x = (_grown(side, sigma, n) for side, sigma, n in sides)
        mask = parts[labels.array[z, y, x]]
        return _Organ(organ.value, (z, y, x), _odds(mask, steps[z, y, x], sigmas))

    found = [s for s in STRUCTURES if s.parent is None and there[s.value]]
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(organ_of, found))


def _among(values: list[int]) -> NDArray[np.bool_]:
    """For every label value, whether it is one of these (256,)."""
    table = np.zeros(256, bool)
    table[values] = True
    return table


def _odds(
    mask: NDArray[np.bool_], steps: NDArray[np.uint8], sigmas: list[float]
) -> NDArray[np.float32]:
    """Log odds (Z, Y, X) that a voxel is part of an organ, from its mask and the brightness."""
    chance = _blurred(mask, sigmas)
    odds = np.log(chance) - np.log1p(-chance)
    near = odds > -_MOST
    prior, seen = odds[near], steps[near]
    ratio = np.zeros(_STEPS, np.float32)
    for _ in range(_ROUNDS):
        likely = 1 / (1 + np.exp(-prior - ratio[seen]))
        inside, around = (_shares(seen, weights) for weights in (likely, 1 - likely))
        change = np.log(inside + _RARE) - np.log(around + _RARE)
        ratio = np.clip(change, -_MOST, _MOST)
    odds += ratio[steps]
    found: NDArray[np.float32] = np.clip(odds, -_FAR, _FAR, out=odds)
    return found


def _shares(seen: NDArray[np.uint8], weights: NDArray[Any]) -> NDArray[np.float32]:
    """The distribution of brightness over voxels (n,) of some weight."""
    counts = np.bincount(seen, weights, minlength=_STEPS)
    reach = int(np.ceil(_REACH * _SMOOTH))
    smooth = np.convolve(np.pad(counts, reach, mode="edge"), _bell(reach, _SMOOTH), mode="valid")
    shares: NDArray[np.float32] = (smooth / smooth.sum()).astype(np.float32)
    return shares


def _blurred(mask: NDArray[np.bool_], sigmas: list[float]) -> NDArray[np.float32]:
    """A mask's voxels as probabilities, never quite 0 or 1."""
    chance = mask.astype(np.float32)
    for axis, sigma in enumerate(sigmas):
        reach = int(np.ceil(_REACH * sigma))
        kernel = _bell(reach, sigma)
        edge = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        held = np.moveaxis(np.pad(chance, edge, mode="edge"), axis, 0)
        blurred = np.moveaxis(np.zeros_like(chance), axis, 0)
        for shift, weight in enumerate(kernel):
            blurred += held[shift : shift + len(blurred)] * weight
        chance = np.moveaxis(blurred, 0, axis)
    return np.clip(chance, 1e-4, 1 - 1e-4, out=chance)


def _bell(reach: int, sigma: float) -> NDArray[np.float32]:
    """A normal distribution over -reach to reach, with the sum 1."""
    values = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    bell: NDArray[np.float32] = (values / values.sum()).astype(np.float32)
    return bell


def _margins(
    organs: list[_Organ], shape: tuple[int, ...]
) -> Iterator[tuple[_Organ, NDArray[np.float32]]]:
    """By how much each organ's log odds exceed the next best, the background's 0 among them.

    No two are positive at one voxel, nor between voxels, where they are interpolated: their sum is
    nowhere positive.
    """
    first, second = np.zeros((2, *shape), np.float32)
    for organ in organs:
        best, next_best = first[organ.box], second[organ.box]
        np.maximum(next_best, np.minimum(best, organ.odds), out=next_best)
        np.maximum(best, organ.odds, out=best)
    for organ in organs:
        best, next_best = first[organ.box], second[organ.box]
        yield organ, organ.odds - np.where(organ.odds >= best, next_best, best)


def _grown(side: slice, sigma: float, n: int) -> slice:
    reach = int(np.ceil(_REACH * sigma))
    return slice(max(0, side.start - reach), min(n, side.stop + reach))


def _corner(box: Box) -> tuple[list[int], list[int]]:
    """A box as its first voxel and its shape."""
    return [s.start for s in box], [s.stop - s.start for s in box]


def _on(part: Geometry, grid: Geometry) -> Box | None:
    """The voxels of a grid that a part of a parallel one reaches, ``None`` where it has none."""
    corners = grid.to_index(part.corners())
    low = np.clip(np.floor(corners.min(0)), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 1, low, grid.shape).astype(int)
    if (low >= high).any():
        return None
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return z, y, x
