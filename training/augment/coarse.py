"""A patch at about 4 mm: what is smooth is worked out there, an eighth or less of the voxels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from training.augment.filters import along, between, spline

F32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

_COARSE_MM = 4.0
# Bone is connected to something that only bone (or a swallowed contrast agent) is as bright as.
_CORTEX_HU = 400.0
# Blocks from a bone's cortex to the middle of its marrow.
_MARROW = 4


class Coarse:
    """A patch's means over blocks, and the way back.

    Args:
        image: float32 HU (Z, Y, X).
        target: uint8 labels on the same voxels.
        spacing: mm per voxel (Z, Y, X).

    Attributes:
        hu: float32 means of the blocks.
        labels: uint8, of each block's first voxel.
        spacing: mm per block.
    """

    def __init__(self, image: Tensor, target: Tensor, spacing: tuple[float, float, float]) -> None:
        self._shape = tuple(image.shape)
        pairs = zip(self._shape, spacing, strict=True)
        self._blocks = [max(1, min(n, round(_COARSE_MM / s))) for n, s in pairs]
        pooled = functional.avg_pool3d(image[None, None], self._blocks, ceil_mode=True)
        z, y, x = self._blocks
        self.hu: F32 = pooled[0, 0].numpy()
        self.labels: NDArray[np.uint8] = target[::z, ::y, ::x].numpy()
        self.spacing = (z * spacing[0], y * spacing[1], x * spacing[2])

    def fine(self, *values: F32) -> list[Tensor]:
        """Fields on the blocks, interpolated to the patch's voxels."""
        fields = torch.from_numpy(np.stack(values).astype(np.float32))
        for axis, (n, block) in enumerate(zip(self._shape, self._blocks, strict=True), 1):
            fields = along(fields, between(n, block, fields.shape[axis]), axis)
        return list(fields)

    def depth(self, mask: Bool) -> F32:
        """mm from each voxel of a mask to the nearest outside of it, 0 there."""
        depths = np.zeros(mask.shape, np.float32)
        for box in ndimage.find_objects(mask.astype(np.uint8)):
            # What the patch cuts off is no surface, what the box cuts off is.
            grown = tuple(slice(max(0, b.start - 1), b.stop + 1) for b in box)
            depths[grown] = ndimage.distance_transform_edt(mask[grown], sampling=self.spacing)
        return depths

    def soft(self, mask: Bool, sigma_mm: float) -> F32:
        """A mask blurred by a Gaussian, 0 to 1."""
        sigmas = [sigma_mm / s for s in self.spacing]
        blur: F32 = ndimage.gaussian_filter(mask.astype(np.float32), sigmas, truncate=3)
        return blur

    def smooth(self, rng: np.random.Generator, step_mm: float) -> F32:
        """A random smooth field of about unit variance whose wiggles are about two steps long."""
        knots = [4 + int(n * s / step_mm) for n, s in zip(self.hu.shape, self.spacing, strict=True)]
        field = torch.from_numpy(rng.standard_normal(knots, dtype=np.float32))
        for axis, n in enumerate(self.hu.shape):
            field = along(field, spline(n, knots[axis]), axis)
        values: F32 = (field / field.std().clamp_min(1e-3)).numpy()
        return values

    def bone(self, above_hu: float) -> Bool:
        """Unlabelled voxels above a value that hang together with what is as bright as cortex."""
        bright = (self.hu > above_hu) & (self.labels == 0)
        parts, count = ndimage.label(bright)
        hard = np.zeros(count + 1, np.bool_)
        hard[np.unique(parts[bright & (self.hu > _CORTEX_HU)])] = True
        bones: Bool = hard[parts]
        # Marrow is darker than the cortex around it; the patch's border is no end of a bone.
        grown = np.pad(bones, _MARROW, mode="edge")
        inner = tuple(slice(_MARROW, -_MARROW) for _ in bones.shape)
        filled: Bool = ndimage.binary_closing(grown, iterations=_MARROW)[inner] | bones
        return filled
