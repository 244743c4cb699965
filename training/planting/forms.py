"""The form of a real lesion, as a signed distance in mm about its centre, negative inside.

Real lesions are tilted, mirrored and scaled a little.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from training.lesions.grow import Axes
from training.planting.shapes import Shape
from training.shapes import F32, rotation

# Around a real form its distance is known so far; beyond, it is that far at least.
_MARGIN_MM = 6.0
_SMOOTHING_MM = 1.0
_TILT_DEGREES = 15.0
SCALE = (0.8, 1.25)
_POINTS = 250


@dataclass(frozen=True, eq=False)
class RealForm:
    """A real lesion, changed a little.

    Attributes:
        shape: the lesion.
        turn: 3x3, from (z, y, x) mm about the planted centre to mm about the lesion's own; what
            mirrors, turns and scales it.
    """

    shape: Shape
    turn: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        shape: Shape,
        rng: np.random.Generator,
        mirror: tuple[bool, bool, bool] = (False, False, False),
        scale: tuple[float, float] = SCALE,
    ) -> RealForm:
        """A lesion at random: tilted about each axis, scaled, mirrored as asked.

        Args:
            shape: the lesion.
            rng: source of tilt and scale.
            mirror: along (z, y, x).
            scale: range of its size over the real one's.
        """
        tilt = rng.normal(0, _TILT_DEGREES, 3)
        flips = np.diag([-1.0 if m else 1.0 for m in mirror])
        turned = flips @ rotation((float(tilt[0]), float(tilt[1]), float(tilt[2])))
        return cls(shape, turned / rng.uniform(*scale))

    @property
    def name(self) -> str:
        """Of the real lesion."""
        return self.shape.name

    @property
    def diameter_mm(self) -> float:
        """Of the sphere that has its volume."""
        return self.shape.diameter_mm * self._scale

    @property
    def reach_mm(self) -> float:
        """How far its farthest point is from its centre."""
        return float(np.linalg.norm(self.points, axis=1).max()) + max(self.shape.spacing)

    @property
    def _scale(self) -> float:
        return float(np.abs(np.linalg.det(self.turn)) ** (-1 / 3))

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """Some of its voxels (n, 3), mm from the centre, in the patient it is planted in."""
        voxels = np.argwhere(self.shape.mask)
        own = (voxels - voxels.mean(0)) * np.asarray(self.shape.spacing)
        # The ends along each axis stay, so that nothing reaches farther.
        ends = np.concatenate([own.argmin(0), own.argmax(0)])
        some = np.concatenate([own[:: max(1, len(own) // _POINTS)], own[ends]])
        return np.asarray(some @ np.linalg.inv(self.turn).T)

    def distance(self, at: Axes) -> F32:
        """Signed distance (Z, Y, X) in mm."""
        transform = sitk.AffineTransform(3)
        # SimpleITK's order is (x, y, z).
        transform.SetMatrix(self.turn[::-1, ::-1].ravel().tolist())
        steps = [float(c[1] - c[0]) if len(c) > 1 else 1.0 for c in at]
        found = sitk.Resample(
            self._image,
            [len(c) for c in at][::-1],
            transform,
            sitk.sitkLinear,
            [float(c[0]) for c in at][::-1],
            steps[::-1],
            (1, 0, 0, 0, 1, 0, 0, 0, 1),
            _MARGIN_MM,
            sitk.sitkFloat32,
        )
        return np.asarray(sitk.GetArrayFromImage(found) * np.float32(self._scale), np.float32)

    @cached_property
    def _image(self) -> sitk.Image:
        """Signed distance about the lesion's centre, smoothed over the stairs of its voxels."""
        spacing = self.shape.spacing
        pad = [int(np.ceil(_MARGIN_MM / s)) for s in spacing]
        mask = np.pad(self.shape.mask, [(p, p) for p in pad])
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        middle = np.argwhere(mask).mean(0) * spacing
        image.SetOrigin((-middle[::-1]).tolist())
        exact = sitk.SignedMaurerDistanceMap(image, False, False, True)
        smooth = sitk.SmoothingRecursiveGaussian(exact, _SMOOTHING_MM)
        # Smoothing shrinks what is round; the level that keeps the volume makes up for it.
        values = sitk.GetArrayViewFromImage(smooth).ravel()
        inside = int(np.count_nonzero(mask))
        return smooth - float(np.partition(values, inside)[inside])
