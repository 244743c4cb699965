"""A canvas in patient millimetres on which anatomy is painted with soft edges.

Coordinates are (z, y, x) in mm, axes running to (S, P, L); the centre of the second lumbar
vertebra's body is the origin. Shapes are signed distances in mm, negative inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.shapes import F32, Point, SmoothField

Box = tuple[slice, slice, slice]

AIR_HU = -1000.0


@dataclass(frozen=True)
class Tube:
    """A path with a radius, on its box of the canvas.

    Attributes:
        box: where in the canvas.
        distance: (Z, Y, X) mm, negative inside.
        front, back: y (mm) of the path's foremost and rearmost centre.
    """

    box: Box
    distance: F32
    front: float
    back: float


@dataclass(frozen=True, eq=False)
class Canvas:
    """HU and labels under construction.

    Attributes:
        z, y, x: coordinates in mm of the voxels along each axis.
        step_mm: voxel size (isotropic).
        hu, labels: (Z, Y, X) float32 and uint8, changed in place by :meth:`paint`.
        warp: displacement fields (z, y, x): a voxel at p shows what the undeformed anatomy has
            at p + warp(p).
        reach_mm: an upper bound on the warp's length per axis.
    """

    z: F32
    y: F32
    x: F32
    step_mm: float
    hu: F32
    labels: NDArray[np.uint8]
    warp: tuple[SmoothField, SmoothField, SmoothField]
    reach_mm: float
    _warped: tuple[F32, F32, F32] = field(repr=False)

    @classmethod
    def blank(
        cls, rng: np.random.Generator, lo: Point, hi: Point, step_mm: float, warp_mm: float
    ) -> Canvas:
        """An empty (air) canvas over the box ``lo``..``hi`` with a random smooth warp."""
        ends = list(zip(lo, hi, strict=True))
        z, y, x = (np.arange(a, b + step_mm, step_mm, dtype=np.float32) for a, b in ends)
        fields = [SmoothField(rng, lo, hi, 70.0, warp_mm) for _ in range(3)]
        moved = [f.on(z, y, x) for f in fields]
        reach = max(float(np.abs(m).max()) for m in moved)
        moved[0] += z[:, None, None]
        moved[1] += y[None, :, None]
        moved[2] += x[None, None, :]
        shape = (len(z), len(y), len(x))
        return cls(
            z,
            y,
            x,
            step_mm,
            np.full(shape, AIR_HU, np.float32),
            np.zeros(shape, np.uint8),
            (fields[0], fields[1], fields[2]),
            reach,
            (moved[0], moved[1], moved[2]),
        )

    @property
    def whole(self) -> Box:
        return (slice(None), slice(None), slice(None))

    def box(self, lo: Point, hi: Point) -> Box:
        """The voxels that may show the undeformed box ``lo``..``hi`` (mm)."""
        margin = self.reach_mm + 2 * self.step_mm
        return self._slices(np.asarray(lo) - margin, np.asarray(hi) + margin)

    def coordinates(self, box: Box) -> tuple[F32, F32, F32]:
        """Undeformed positions (z, y, x), each (Z, Y, X) mm, of the box's voxels."""
        z, y, x = self._warped
        return z[box], y[box], x[box]

    def field(self, rng: np.random.Generator, box: Box, step_mm: float, sd: float) -> F32:
        """A smooth random field (Z, Y, X) on the box; see :class:`SmoothField`."""
        z, y, x = self.z[box[0]], self.y[box[1]], self.x[box[2]]
        if not (len(z) and len(y) and len(x)):
            return np.zeros((len(z), len(y), len(x)), np.float32)
        lo, hi = (z[0], y[0], x[0]), (z[-1], y[-1], x[-1])
        return SmoothField(rng, lo, hi, step_mm, sd).on(z, y, x)

    def paint(
        self,
        box: Box,
        distance: F32,
        hu: F32 | float,
        label: int | None = 0,
    ) -> None:
        """Lay a shape over what is there, with an edge one voxel soft.

        Args:
            box: where ``distance`` belongs.
            distance: (Z, Y, X) mm, negative inside.
            hu: value or values (Z, Y, X) inside.
            label: value for the voxels inside, 0 for what has no label; ``None`` keeps the labels,
                for textures and contents of what is painted already.
        """
        cover = np.clip(0.5 - distance / self.step_mm, 0.0, 1.0)
        view = self.hu[box]
        view += cover * (hu - view)
        if label is not None:
            self.labels[box][distance < 0] = label

    def tube(self, points: NDArray[np.float64], radii: NDArray[np.float64]) -> Tube:
        """The union of balls along a smooth path.

        Args:
            points: (N, 3) undeformed control points in mm.
            radii: (N,) mm.
        """
        path = smooth_path(np.column_stack([points, radii]), 0.4 * float(np.min(radii)) + 0.8)
        centres, radius = path[:, :3], path[:, 3]
        centres = centres - np.column_stack([f.at(centres) for f in self.warp])
        margin = float(radius.max()) + 3 * self.step_mm
        box = self._slices(centres.min(0) - margin, centres.max(0) + margin)
        z, y, x = self.z[box[0]], self.y[box[1]], self.x[box[2]]
        distance = np.full((len(z), len(y), len(x)), 4 * self.step_mm, np.float32)
        for (cz, cy, cx), r in zip(centres, radius, strict=True):
            reach = r + 3 * self.step_mm
            part = (
                _span(z, cz - reach, cz + reach),
                _span(y, cy - reach, cy + reach),
                _span(x, cx - reach, cx + reach),
            )
            square = (z[part[0], None, None] - cz) ** 2 + (y[None, part[1], None] - cy) ** 2
            ball = np.sqrt(square + (x[None, None, part[2]] - cx) ** 2) - np.float32(r)
            np.minimum(distance[part], ball, out=distance[part])
        return Tube(box, distance, float(centres[:, 1].min()), float(centres[:, 1].max()))

    def _slices(self, lo: NDArray[np.floating], hi: NDArray[np.floating]) -> Box:
        axes = (self.z, self.y, self.x)
        z, y, x = (_span(c, float(a), float(b)) for c, a, b in zip(axes, lo, hi, strict=True))
        return (z, y, x)


def smooth_path(points: NDArray[np.float64], step_mm: float) -> NDArray[np.float64]:
    """Points (M, K) about ``step_mm`` apart along a Catmull-Rom spline through ``points`` (N, K).

    The first three columns are the position; the others are interpolated with it.
    """
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        count = max(2, int(np.ceil(np.linalg.norm((c - b)[:3]) / step_mm)))
        t = np.linspace(0, 1, count, endpoint=False)[:, None]
        cubic = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
        pieces.append(0.5 * (cubic + (3 * b - a - 3 * c + d) * t**3))
    return np.vstack([*pieces, points[-1:]])


def _span(coordinates: F32, lo: float, hi: float) -> slice:
    """The indices of an ascending vector within [lo, hi]."""
    start, stop = np.searchsorted(coordinates, [lo, hi])
    return slice(int(start), int(max(start, stop)))
