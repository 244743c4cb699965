"""What a scan leaves out: it ends above or below, or its field of view is smaller than the body."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imaging.nifti import AIR_HU
from training.recipe import Augment

# Least part of a patch that a cut leaves, and part of the fields of view that are boxes: crops of
# a reconstruction, as research sets have them.
_LEFT = 0.35
_BOXES = 0.3
_ASIDE_MM = 30.0


def left_out(
    image: Tensor,
    target: Tensor,
    spacing: tuple[float, float, float],
    settings: Augment,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Air and no labels where a shorter scan or a smaller field of view has no voxels.

    Args:
        image: float32 HU (Z, Y, X).
        target: uint8 labels on the same voxels.
        spacing: mm per voxel (Z, Y, X).
        settings: ``cut_p``, ``field_p``, ``field_mm``.
        rng: the only source of randomness.
    """
    kept = torch.ones(image.shape[0], 1, 1, dtype=torch.bool)
    if settings.cut_p and len(image) > 1 and rng.random() < settings.cut_p:
        kept = _slices(len(image), rng)[:, None, None]
    if settings.field_p and rng.random() < settings.field_p:
        kept = kept & _field(image, spacing, settings.field_mm, rng)
    if kept.all():
        return image, target
    return image.masked_fill(~kept, AIR_HU), target.masked_fill(~kept, 0)


def _slices(n: int, rng: np.random.Generator) -> Tensor:
    """Which slices a scan that ends within the patch has; one end or, less often, both."""
    left = max(1, round(n * rng.uniform(_LEFT, 1)))
    places = (0, n - left, int(rng.integers(n - left + 1)))
    first = places[rng.choice(3, p=[0.4, 0.4, 0.2])]
    at = torch.arange(n)
    return (at >= first) & (at < first + left)


def _field(
    image: Tensor,
    spacing: tuple[float, float, float],
    radii: tuple[float, float],
    rng: np.random.Generator,
) -> Tensor:
    """Which voxels (1, Y, X) a round field of view, or a box cut from one, holds."""
    lines = [
        (torch.arange(n) - (n - 1) / 2) * step - float(rng.uniform(-_ASIDE_MM, _ASIDE_MM))
        for n, step in zip(image.shape[1:], spacing[1:], strict=True)
    ]
    radius = float(rng.uniform(*radii))
    if rng.random() < _BOXES:
        return (lines[0].abs() < 0.8 * radius)[None, :, None] & (lines[1].abs() < radius)
    return (lines[0][:, None] ** 2 + lines[1] ** 2 < radius**2)[None]
