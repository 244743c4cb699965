"""Distances between the surfaces of two masks, in millimetres.

Two definitions of a surface are in use and differ in the second digit. Surface Dice counts
area: each 2 x 2 x 2 neighbourhood that is partly inside holds a piece of surface, whose area
marching cubes give (Nikolov et al. 2018, arXiv 1809.04430). The distances count voxels: those of
a mask that touch its outside with a face, as MONAI has it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from imaging.errors import BadParameter

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

# neheller/kits21, kits21/configuration/labels.py: one for each hierarchical evaluation class.
KITS21_TOLERANCES_MM: dict[str, float] = {
    "kidney": 1.0330772532390826,
    "kidney_masses": 1.1328796488598762,
    "kidney_tumor": 1.1498198361434828,
}


def surface_dice(a: Mask, b: Mask, spacing: Spacing, tolerance_mm: float) -> float:
    """The part of both surfaces that lies within the tolerance of the other, by area.

    Also named normalised surface distance (NSD). 1 when both masks are empty, 0 when one is, as
    KiTS21 has it. A mask that touches the border of the array has a surface there.

    Args:
        a, b: (Z, Y, X).
        spacing: mm (Z, Y, X).
        tolerance_mm: at that distance a surface still counts.

    Raises:
        BadParameter: unequal shapes, no 3D masks, a spacing that is not positive, a negative
            tolerance.
    """
    _check(a, b, spacing)
    if not 0 <= tolerance_mm < math.inf:
        raise BadParameter(f"tolerance_mm must be 0 or more, not {tolerance_mm}.")
    if not (a.any() and b.any()):
        return 0.0 if a.any() or b.any() else 1.0
    first, second = (_area_surface(mask, spacing) for mask in _cropped(a, b))
    within = first.near(second, tolerance_mm) + second.near(first, tolerance_mm)
    return within / float(first.weights.sum() + second.weights.sum())


def hausdorff95(a: Mask, b: Mask, spacing: Spacing) -> float:
    """The larger of the two directions' 95th percentiles of boundary voxels' distances, in mm.

    0 when both masks are empty, infinite when one is.

    Args:
        a, b: (Z, Y, X).
        spacing: mm (Z, Y, X).

    Raises:
        BadParameter: as in :func:`surface_dice`.
    """
    distances = _boundary_distances(a, b, spacing)
    if distances is None:
        return _distance_to_nothing(a, b)
    return max(float(np.percentile(d, 95)) for d in distances)


def average_surface_distance(a: Mask, b: Mask, spacing: Spacing) -> float:
    """The mean distance of every boundary voxel of both masks to the other's boundary, in mm.

    0 when both masks are empty, infinite when one is.

    Args:
        a, b: (Z, Y, X).
        spacing: mm (Z, Y, X).

    Raises:
        BadParameter: as in :func:`surface_dice`.
    """
    distances = _boundary_distances(a, b, spacing)
    if distances is None:
        return _distance_to_nothing(a, b)
    return float(np.concatenate(distances).mean())


@dataclass(frozen=True, eq=False)
class _Surface:
    """Points of a surface: voxel indices (n, 3), spacing in mm, weights (n,)."""

    points: NDArray[np.int64]
    spacing: Spacing
    weights: NDArray[np.float64]

    def distances(self, other: _Surface) -> NDArray[np.float64]:
        """Of every point to the other surface, mm (n,)."""
        tree = KDTree(other.points * self.spacing)
        nearest = tree.query(self.points * self.spacing)[1]
        # From whole voxels again: a distance that equals the tolerance must not be rounded off it.
        steps = (self.points - other.points[nearest]) * self.spacing
        found: NDArray[np.float64] = np.sqrt((steps * steps).sum(1))
        return found

    def near(self, other: _Surface, tolerance_mm: float) -> float:
        """The weight of the points that lie within the tolerance of the other surface."""
        return float(self.weights[self.distances(other) <= tolerance_mm].sum())


def _boundary_distances(
    a: Mask, b: Mask, spacing: Spacing
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """From each to the other, mm; ``None`` where a mask is empty."""
    _check(a, b, spacing)
    if not (a.any() and b.any()):
        return None
    first, second = (_voxel_surface(mask, spacing) for mask in _cropped(a, b))
    return first.distances(second), second.distances(first)


def _distance_to_nothing(a: Mask, b: Mask) -> float:
    return math.inf if a.any() or b.any() else 0.0


def _voxel_surface(mask: Mask, spacing: Spacing) -> _Surface:
    points = np.argwhere(mask & ~binary_erosion(mask))
    return _Surface(points, spacing, np.ones(len(points)))


def _area_surface(mask: Mask, spacing: Spacing) -> _Surface:
    # MONAI takes four seconds to import, and not all that measures distances asks for areas.
    from monai.metrics.utils import get_code_to_measure_table

    table, kernel = (t.numpy() for t in get_code_to_measure_table(spacing))
    codes = np.zeros([n - 1 for n in mask.shape], np.uint8)
    for z, y, x in itertools.product((0, 1), repeat=3):
        corner = mask[z : z + codes.shape[0], y : y + codes.shape[1], x : x + codes.shape[2]]
        codes += corner * np.uint8(kernel[0, 0, z, y, x])
    points = np.argwhere((codes > 0) & (codes < 255))
    return _Surface(points, spacing, table[codes[tuple(points.T)]].astype(np.float64))


def _cropped(a: Mask, b: Mask) -> tuple[Mask, Mask]:
    """Both in the smallest box that holds them, with a voxel of background around it."""
    either = a | b
    box = []
    for axis in range(3):
        there = np.flatnonzero(either.any(axis=tuple(k for k in range(3) if k != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return np.pad(a[tuple(box)], 1), np.pad(b[tuple(box)], 1)


def _check(a: Mask, b: Mask, spacing: Spacing) -> None:
    if a.shape != b.shape or a.ndim != 3 or a.dtype != bool or b.dtype != bool:
        raise BadParameter(
            f"Masks of shape {a.shape} ({a.dtype}) and {b.shape} ({b.dtype}) cannot be compared; "
            "give two bool arrays (Z, Y, X) of one shape."
        )
    if len(spacing) != 3 or not all(0 < s < math.inf for s in spacing):
        raise BadParameter(f"spacing must be three positive millimetres (Z, Y, X), not {spacing}.")
