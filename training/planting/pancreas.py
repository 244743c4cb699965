"""What a cancer does to the pancreas behind it: a wide duct, a thinner gland.

Behind is upstream, towards the tail: in the patient's left. The gland's course is the cheapest path
through it, where the middle costs less than the rim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from models.labels import BY_NAME
from training.lesions.tissue import Mask, Spacing, local_mean
from training.shapes import F32

_STEP_MM = 2.5
# A shorter gland behind the cancer shows nothing.
_SHORTEST_MM = 18.0
# What lies farther from the path than this is another part of the gland, such as the head below.
_FARTHEST_MM = 25.0
_CHANCE = 0.6
_DUCT_HU, _DUCT_RADIUS_MM = (0.0, 18.0), (1.3, 4.0)
_THINNED_MM, _FAT_HU = (0.0, 3.5), (-100.0, -70.0)
_FATTY_HU = -30.0
# Of the gland's own half thickness a duct takes so much at most.
_DUCT_SHARE = 0.7
_NEIGHBOURS = [(z, y, x) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)][14:]


@dataclass(frozen=True, eq=False)
class _Gland:
    """The pancreas behind a cancer: voxels (n, 3) of a box, and their nearest points of the path.

    ``away`` is their distance to the path, ``depth`` that to the gland's surface, ``fat`` that to
    the fat around it, ``along`` how far their nearest point is behind the cancer (mm).
    """

    voxels: NDArray[np.int64]
    away: NDArray[np.float64]
    depth: NDArray[np.float64]
    fat: NDArray[np.float64]
    along: NDArray[np.float64]


def draw_upstream(
    hu: NDArray[Any],
    labels: NDArray[np.uint8],
    spacing: Spacing,
    centre: tuple[float, float, float],
    rng: np.random.Generator,
) -> None:
    """Widen the duct and thin the gland behind a cancer, by chance, in place.

    Args:
        hu, labels: (Z, Y, X) in (S, P, L) order, the cancer in both.
        spacing: (z, y, x) mm.
        centre: of the cancer, voxels (z, y, x).
        rng: source of everything random.
    """
    if rng.random() > _CHANCE:
        return
    values = [BY_NAME[name].value for name in ("pancreas", "pancreas_tumor")]
    whole = (labels == values[0]) | (labels == values[1])
    corners = [np.flatnonzero(whole.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(max(0, int(c[0]) - 2), int(c[-1]) + 3) for c in corners)
    start = np.array([b.start for b in box])
    path = course(whole[box], spacing, (np.asarray(centre) - start) * spacing)
    length = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    if length < _SHORTEST_MM:
        return
    fat = (labels[box] == 0) & (local_mean(hu[box].astype(np.float32)) < _FATTY_HU)
    gland = _behind(whole[box], labels[box] == values[0], fat, spacing, path)
    if not len(gland.voxels):
        return
    _thin(hu[box], labels[box], gland, spacing, rng)
    _widen(hu[box], gland, spacing, rng)


def course(gland: Mask, spacing: Spacing, start_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The path (n, 3) in mm from a point of the gland to its tail, its leftmost end.

    Args:
        gland: (Z, Y, X) in (S, P, L) order.
        spacing: (z, y, x) mm; positions are index times spacing.
        start_mm: nearest to where the path begins.
    """
    thin = [max(1, round(_STEP_MM / s)) for s in spacing]
    part = np.ascontiguousarray(gland[:: thin[0], :: thin[1], :: thin[2]])
    step = np.asarray(spacing) * thin
    voxels = np.argwhere(part)
    points = voxels * step
    if len(points) < 2:
        return points
    first = int(((points - start_mm) ** 2).sum(1).argmin())
    cost, before = dijkstra(_graph(part, step), indices=first, return_predecessors=True)
    # The tail lies to the left, mostly also high: its tip is the point farthest that way.
    left = np.where(np.isfinite(cost), points[:, 2] + 0.3 * points[:, 0], -np.inf)
    at, way = int(left.argmax()), []
    while at >= 0:
        way.append(at)
        at = int(before[at])
    path = points[way[::-1]]
    return np.asarray(uniform_filter1d(path, min(7, len(path)), axis=0, mode="nearest"))


def _graph(part: Mask, step: NDArray[np.float64]) -> coo_array:
    """Neighbouring voxels of a gland and what it costs to go from one to the other."""
    number = np.full(part.shape, -1)
    voxels = np.argwhere(part)
    number[part] = np.arange(len(voxels))
    depth = _depth(part, (float(step[0]), float(step[1]), float(step[2])))[part]
    price = 1 / (0.5 + depth) ** 2
    padded = np.pad(number, 1, constant_values=-1)
    rows, columns, costs = [], [], []
    for way in _NEIGHBOURS:
        other = padded[tuple((voxels + 1 + way).T)]
        own = np.flatnonzero(other >= 0)
        other = other[own]
        rows.append(own)
        columns.append(other)
        costs.append(float(np.linalg.norm(way * step)) * (price[own] + price[other]))
    both = (np.concatenate(rows + columns), np.concatenate(columns + rows))
    size = (len(voxels), len(voxels))
    return coo_array((np.concatenate(costs + costs), both), shape=size).tocsr()


def _depth(mask: Mask, spacing: Spacing) -> F32:
    """Distance (Z, Y, X) in mm from the surface, positive inside."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    inner = sitk.SignedMaurerDistanceMap(image, True, False, True)
    return np.asarray(sitk.GetArrayFromImage(inner), np.float32)


def _behind(
    whole: Mask, bare: Mask, fat: Mask, spacing: Spacing, path: NDArray[np.float64]
) -> _Gland:
    """The gland that the path runs through, without what lies around its beginning."""
    voxels = np.argwhere(bare)
    dense = np.concatenate([path[:-1] + t * np.diff(path, axis=0) for t in (0.0, 0.33, 0.67)])
    reached = np.concatenate([[0.0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])
    parts = np.concatenate([reached[:-1] + t * np.diff(reached) for t in (0.0, 0.33, 0.67)])
    away, nearest = cKDTree(dense).query(voxels * spacing)
    along = parts[nearest]
    kept = (away < _FARTHEST_MM) & (along > 0)
    here = tuple(voxels[kept].T)
    depth = _depth(whole, spacing)[here].astype(np.float64)
    beyond = -_depth(fat, spacing)[here].astype(np.float64)
    return _Gland(voxels[kept], away[kept], depth, beyond, along[kept])


def _thin(
    hu: NDArray[Any],
    labels: NDArray[np.uint8],
    gland: _Gland,
    spacing: Spacing,
    rng: np.random.Generator,
) -> None:
    """Fat takes the gland's outer layer, where it bordered on fat."""
    thick = float(np.quantile(gland.depth, 0.95))
    layer = min(rng.uniform(*_THINNED_MM), 0.4 * thick)
    cover = np.clip(0.5 + (layer - gland.fat) / max(spacing[1], 1.5), 0, 1)
    cover *= np.clip(gland.along / 10, 0, 1) * (layer > 0.5)
    _mix(hu, gland.voxels, cover, rng.uniform(*_FAT_HU))
    labels[tuple(gland.voxels[cover > 0.5].T)] = 0


def _widen(hu: NDArray[Any], gland: _Gland, spacing: Spacing, rng: np.random.Generator) -> None:
    """A tube of fluid, narrower towards the tail."""
    radius = rng.uniform(*_DUCT_RADIUS_MM)
    taper = 1 - 0.5 * gland.along / max(float(gland.along.max()), 1.0)
    own = np.minimum(radius * taper, _DUCT_SHARE * (gland.away + gland.depth))
    wide = float(np.prod(spacing) ** (1 / 3))
    cover = np.clip(0.5 + (own - gland.away) / np.hypot(wide, 1.2), 0, 1)
    _mix(hu, gland.voxels, cover, rng.uniform(*_DUCT_HU))


def _mix(
    hu: NDArray[Any], voxels: NDArray[np.int64], cover: NDArray[np.float64], level: float
) -> None:
    """Bring voxels to a level by their share, in place; their grain stays."""
    at = tuple(voxels.T)
    old = hu[at].astype(np.float32)
    usual = float(np.median(old))
    moved = old + cover * (level - usual)
    hu[at] = np.rint(moved) if np.issubdtype(hu.dtype, np.integer) else moved
