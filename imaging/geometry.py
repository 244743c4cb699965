"""Where voxels are in the patient: the grid of a volume in LPS millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadGeometry

Float = NDArray[np.float64]

# How far (cosine) two axes may be from perpendicular before a direction counts as sheared;
# float32 headers and six-decimal DICOM cosines stay below it.
ORTHONORMAL_TOLERANCE = 1e-4
# A sheared direction is replaced by its nearest rotation up to this angle; above it the anatomy
# would move by centimetres (a gantry tilt kept in the affine), so the input is refused.
MAX_SHEAR_DEGREES = 5.0
# Cosines below it are zeros that went through a calculation.
_NO_COSINE = 1e-12
# No number of a patient's grid comes near it; larger ones would overflow in what follows.
_MAX_MM = 1e9


@dataclass(frozen=True, eq=False)
class Geometry:
    """A regular, orthonormal grid of voxels.

    Attributes:
        shape: voxels along the array axes, (Z, Y, X).
        spacing: millimetres between voxel centres along the same axes, all positive.
        origin: LPS position (x, y, z) in mm of the centre of voxel (0, 0, 0).
        direction: 3x3; column ``a`` is the unit LPS vector along array axis ``a``.

    Raises:
        BadGeometry: non-finite values, a spacing that is not positive, or a direction that is not
            orthonormal (see :meth:`from_affine` for the forgiving way in).
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: Float

    def __post_init__(self) -> None:
        direction = np.array(self.direction, dtype=np.float64)
        # ITK inverts a matrix with numbers close to the smallest there are into a wrong one.
        direction[np.abs(direction) < _NO_COSINE] = 0.0
        direction.setflags(write=False)
        object.__setattr__(self, "direction", direction)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing))
        object.__setattr__(self, "origin", tuple(float(o) for o in self.origin))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise BadGeometry(f"A volume needs three axes of at least one voxel, not {self.shape}.")
        if (len(self.spacing), len(self.origin), direction.shape) != (3, 3, (3, 3)):
            raise BadGeometry("Spacing and origin need three numbers, the direction 3x3.")
        numbers = np.concatenate([self.spacing, self.origin, direction.ravel()])
        if not np.isfinite(numbers).all() or min(self.spacing) <= 0:
            raise BadGeometry(
                f"Spacing {self.spacing} mm and origin {self.origin} must be finite and the "
                "spacing positive; repair the header.",
                spacing=list(map(str, self.spacing)),
            )
        if not np.allclose(direction.T @ direction, np.eye(3), atol=10 * ORTHONORMAL_TOLERANCE):
            raise BadGeometry("The direction's axes must be perpendicular unit vectors.")

    @classmethod
    def from_affine(cls, shape: Sequence[int], affine: Float) -> tuple[Geometry, tuple[str, ...]]:
        """The grid of a 4x4 affine, and warnings where it had to be corrected.

        Args:
            shape: (Z, Y, X).
            affine: maps (z, y, x, 1) voxel indices to LPS millimetres.

        Returns:
            The geometry and a tuple of sentences (empty when the affine was orthonormal).

        Raises:
            BadGeometry: a non-finite or singular affine, or a shear above
                ``MAX_SHEAR_DEGREES``.
        """
        affine = np.asarray(affine, dtype=np.float64)
        # NaN fails the comparison too.
        if affine.shape != (4, 4) or not (np.abs(affine) < _MAX_MM).all():
            raise BadGeometry("The affine must be 4x4, finite and in mm; repair the header.")
        columns = affine[:3, :3]
        spacing = np.linalg.norm(columns, axis=0)
        if spacing.min() < 1e-6 or abs(np.linalg.det(columns / spacing)) < 1e-3:
            raise BadGeometry(
                f"The affine is singular: its axes are {np.round(columns.T, 6).tolist()} mm a "
                "voxel. Repair the header.",
                axes=columns.T.tolist(),
            )
        direction, shear = _nearest_rotation(columns / spacing)
        if shear > MAX_SHEAR_DEGREES:
            raise BadGeometry(
                f"The axes are {shear:.1f} degrees from perpendicular (at most "
                f"{MAX_SHEAR_DEGREES:g} can be corrected); resample the CT to an unsheared grid.",
                shear_degrees=round(shear, 3),
            )
        warnings: tuple[str, ...] = ()
        if shear > 0:
            warnings = (
                f"The direction was not orthonormal ({shear:.3f} degrees of shear); the nearest "
                "orthonormal direction was used.",
            )
        origin = (float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3]))
        return cls(_triple(shape), _triple(spacing), origin, direction), warnings

    @property
    def affine(self) -> Float:
        """4x4 that maps (z, y, x, 1) voxel indices to LPS millimetres."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000.0

    def to_world(self, index: Any) -> Float:
        """LPS millimetres (..., 3) of voxel indices (..., 3) in (z, y, x)."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, world: Any) -> Float:
        """Fractional voxel indices (..., 3) in (z, y, x) of LPS millimetres (..., 3)."""
        inverse = np.linalg.inv(self.affine[:3, :3])
        return (np.asarray(world, dtype=np.float64) - self.affine[:3, 3]) @ inverse.T

    def corners(self) -> Float:
        """LPS millimetres (8, 3) of the centres of the eight corner voxels."""
        ends = [(0, n - 1) for n in self.shape]
        return self.to_world(np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3))

    def crop(self, start: Sequence[int], shape: Sequence[int]) -> Geometry:
        """The grid of the box of ``shape`` voxels from voxel ``start`` on, both (Z, Y, X)."""
        origin = self.to_world(np.asarray(start))
        return replace(self, shape=_triple(shape), origin=_triple(origin))

    def transposed(self, axes: Sequence[int], flips: Sequence[bool]) -> Geometry:
        """The grid of ``array.transpose(axes)`` with the then ``flips``-marked axes reversed."""
        order = list(axes)
        start = np.zeros(3)
        for axis, flip in zip(order, flips, strict=True):
            start[axis] = self.shape[axis] - 1 if flip else 0
        sign = np.where(np.asarray(flips), -1.0, 1.0)
        return Geometry(
            _triple(np.asarray(self.shape)[order]),
            _triple(np.asarray(self.spacing)[order]),
            _triple(self.to_world(start)),
            self.direction[:, order] * sign,
        )

    def close_to(self, other: Geometry, tolerance_mm: float = 1e-2) -> bool:
        """Whether both grids have the same shape and corners within ``tolerance_mm``."""
        if self.shape != other.shape:
            return False
        return bool(np.abs(self.corners() - other.corners()).max() <= tolerance_mm)


def canonical_axes(direction: Float) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """How to transpose and flip array axes so that they run closest to (S, P, L).

    Returns:
        ``axes`` for ``np.transpose`` and, for each axis after it, whether to reverse it.
    """
    # Rows x, y, z of the direction are L, P, S; the canonical array order is S, P, L.
    along = np.abs(direction[::-1])
    best = max(
        ((a, b, c) for a in range(3) for b in range(3) for c in range(3) if len({a, b, c}) == 3),
        key=lambda p: along[0, p[0]] + along[1, p[1]] + along[2, p[2]],
    )
    flips = tuple(bool(direction[2 - row, axis] < 0) for row, axis in enumerate(best))
    return best, (flips[0], flips[1], flips[2])


def _nearest_rotation(columns: Float) -> tuple[Float, float]:
    """The orthonormal matrix nearest to unit ``columns``, and their shear.

    The shear is how many degrees two axes are from perpendicular at most; 0 where the difference
    is within ``ORTHONORMAL_TOLERANCE``.
    """
    u, _, vt = np.linalg.svd(columns)
    cosine = float(np.abs(columns.T @ columns - np.eye(3)).max())
    if cosine <= ORTHONORMAL_TOLERANCE:
        return u @ vt, 0.0
    return u @ vt, float(np.degrees(np.arcsin(min(cosine, 1.0))))


def _triple(values: Any) -> tuple[Any, Any, Any]:
    a, b, c = (v.item() if isinstance(v, np.generic) else v for v in values)
    return a, b, c
