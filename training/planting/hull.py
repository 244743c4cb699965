"""The convex hull of an organ: what lies outside of it bulges out of the organ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from imaging.errors import DataError

Points = NDArray[np.float64]
_LATTICE_MM = 3.0
# So much of a kidney's volume must be there of the other one to tell left from right by it.
_OTHER_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Hull:
    """A convex hull in the millimetres of its grid: voxel index times spacing, (z, y, x).

    Attributes:
        planes: (n, 4), outward unit normals and offsets.
        low, high: corners (z, y, x) of its box.
    """

    planes: Points
    low: Points
    high: Points

    @classmethod
    def around(cls, mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> Hull:
        """The hull of a mask's (Z, Y, X) voxel centres.

        Raises:
            DataError: voxels that lie in one plane.
        """
        points = _ends(mask) * np.asarray(spacing)
        try:
            planes = ConvexHull(points).equations
        except (QhullError, ValueError) as error:
            raise DataError("An organ that is flat has no hull; leave it out.") from error
        # Facets are triangles; those of one face share its plane.
        planes = np.unique(np.round(planes, 3), axis=0)
        return cls(planes, points.min(0), points.max(0))

    def distance(self, points: Points) -> Points:
        """Signed distance (n,) in mm of points (n, 3): exact within, at least that outside."""
        return np.asarray((points @ self.planes[:, :3].T + self.planes[:, 3]).max(1))

    def relative(self, points: Points) -> Points:
        """Points (..., 3) in the hull's box, -1 to 1 from side to side."""
        half = np.maximum((self.high - self.low) / 2, 1e-6)
        return np.asarray((points - (self.high + self.low) / 2) / half)


def outwards(
    own: NDArray[np.bool_],
    both: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    hull: Hull,
) -> float:
    """Which way a kidney's outer side is: positive towards greater x, so that a left one is so.

    Where the other kidney is in view, it tells. Alone, a kidney is hollow at its hilum: its mass
    lies away from its hull's middle, which is right for four of five.

    Args:
        own: (Z, Y, X) one kidney, in (S, P, L) order.
        both: all kidney that is in view.
        spacing: (z, y, x) mm.
        hull: of ``own``.
    """
    columns, other = own.sum((0, 1)), (both & ~own).sum((0, 1))
    x = np.arange(len(columns))
    middle = float(columns @ x / columns.sum())
    if other.sum() > _OTHER_SHARE * columns.sum():
        return middle - float(other @ x / other.sum())
    axes = [np.arange(lo, hi, _LATTICE_MM) for lo, hi in zip(hull.low, hull.high, strict=True)]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    within = lattice[hull.distance(lattice) < 0]
    return middle * spacing[2] - float(within[:, 2].mean()) if len(within) else 1.0


def _ends(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First and last voxel (n, 3) of each row along x: no other can be a corner of the hull."""
    z, y = np.nonzero(mask.any(2))
    rows = mask[z, y]
    first, last = rows.argmax(1), rows.shape[1] - 1 - rows[:, ::-1].argmax(1)
    return np.concatenate([np.stack([z, y, x], 1) for x in (first, last)])
