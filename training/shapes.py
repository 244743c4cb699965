"""Random smooth fields, and signed distances of simple shapes.

Positions are (z, y, x) in mm; distances are in mm, negative inside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Point = tuple[float, float, float]

# Sum of the squared cubic B-spline weights along one axis, averaged over positions: the variance
# left of unit-variance coefficients.
_BSPLINE_VARIANCE = 0.479


class SmoothField:
    """A random smooth function of position: cubic B-splines on a coarse grid.

    Args:
        rng: source of the coefficients.
        lo, hi: corners (z, y, x) in mm of the box it is defined on.
        step_mm: distance of the coefficients; wiggles are about twice as long.
        sd: standard deviation of the values.
    """

    def __init__(
        self, rng: np.random.Generator, lo: Point, hi: Point, step_mm: float, sd: float = 1.0
    ) -> None:
        self._lo = np.asarray(lo, dtype=np.float64) - step_mm
        self._step = step_mm
        extent = np.asarray(hi, dtype=np.float64) - np.asarray(lo, dtype=np.float64)
        size = np.ceil(extent / step_mm).astype(int) + 5
        values = rng.standard_normal(tuple(size), dtype=np.float32)
        self._coefficients: F32 = values * np.float32(sd * _BSPLINE_VARIANCE**-1.5)

    def on(self, z: F32, y: F32, x: F32) -> F32:
        """Values (Z, Y, X) on the grid of the three coordinate vectors."""
        wz, wy, wx = (self._weights(axis, c) for axis, c in enumerate((z, y, x)))
        rows = wy @ (self._coefficients @ wx.T)
        flat = wz @ rows.reshape(rows.shape[0], -1)
        return np.asarray(flat.reshape(len(z), len(y), len(x)), dtype=np.float32)

    def at(self, points: NDArray[np.float64]) -> F32:
        """Values (N,) at the points (N, 3)."""
        wz, wy, wx = (self._weights(axis, points[:, axis]) for axis in range(3))
        rows = np.einsum("nx,zyx->nzy", wx, self._coefficients)
        return np.asarray(np.einsum("nzy,ny,nz->n", rows, wy, wz), dtype=np.float32)

    def _weights(self, axis: int, coordinates: NDArray[np.floating]) -> F32:
        """B-spline weights (N, coefficients) of positions along one axis."""
        count = self._coefficients.shape[axis]
        at = np.clip((coordinates - self._lo[axis]) / self._step, 1.0, count - 2.0 - 1e-3)
        distance = np.abs(at[:, None] - np.arange(count)[None, :])
        near = 2 / 3 - distance**2 * (1 - distance / 2)
        far = np.clip(2 - distance, 0, None) ** 3 / 6
        return np.asarray(np.where(distance < 1, near, far), dtype=np.float32)


def ellipsoid(
    at: tuple[F32, F32, F32], centre: Point, radii: Point, tilt: NDArray[np.float64] | None = None
) -> F32:
    """Approximate signed distance (mm) of positions ``at`` to an ellipsoid.

    Args:
        at: (z, y, x) arrays in mm.
        centre, radii: (z, y, x) mm.
        tilt: 3x3 rotation whose rows are the ellipsoid's own axes.
    """
    local = rotated(at, centre, tilt)
    scaled = [a / np.float32(r) for a, r in zip(local, radii, strict=True)]
    # Level set over its gradient; at the centre, where both vanish, minus the shortest radius.
    tiny = np.float32(1e-6)
    level = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2) + tiny
    steps = [(a / np.float32(r)) ** 2 for a, r in zip(scaled, radii, strict=True)]
    slope = np.sqrt(steps[0] + steps[1] + steps[2]) + tiny / np.float32(min(radii))
    return np.asarray(level * (level - 1) / slope, dtype=np.float32)


def rotated(
    at: tuple[F32, F32, F32], centre: Point, tilt: NDArray[np.float64] | None = None
) -> tuple[F32, F32, F32]:
    """Positions ``at`` relative to ``centre`` along the rows of ``tilt`` (mm)."""
    moved = [a - np.float32(c) for a, c in zip(at, centre, strict=True)]
    if tilt is None:
        return moved[0], moved[1], moved[2]
    rows = np.asarray(tilt, dtype=np.float32)
    a, b, c = (r[0] * moved[0] + r[1] * moved[1] + r[2] * moved[2] for r in rows)
    return a, b, c


def rotation(degrees: Point) -> NDArray[np.float64]:
    """3x3 rotation about the z, y and x axes, for (z, y, x) vectors."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def smooth_min(a: F32, b: F32, blend_mm: float) -> F32:
    """Union of two shapes, their joint rounded over ``blend_mm``."""
    h = np.clip(0.5 + 0.5 * (b - a) / np.float32(blend_mm), 0, 1)
    return np.asarray(b + (a - b) * h - np.float32(blend_mm) * h * (1 - h), dtype=np.float32)
