"""What differs between scanners and protocols: kernel, noise, streaks, slice thickness."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imaging.nifti import AIR_HU
from training.augment.filters import along, blurred, slabs
from training.recipe import Augment

Spacing = tuple[float, float, float]

# Part of the patches.
_KERNEL_P, _NOISE_P = 0.3, 0.5
# What an unsharp mask compares with: its Gaussian's standard deviation in voxels.
_UNSHARP = 1.0
# Growth of a noise's logarithm by mm of water in the ray. Attenuation alone gives half of water's
# 0.02 / mm at 70 keV; bow-tie filters and modulated tubes take most of it back. Assumption.
_NOISE_PER_MM = 0.003


def other_kernel(
    image: Tensor, spacing: Spacing, settings: Augment, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """A softer image, a sharper one, or the same.

    Args:
        image: float32 HU (Z, Y, X).
        spacing: mm per voxel (Z, Y, X).
        settings: ``blur_mm`` and ``sharpen``.
        rng: the only source of randomness.

    Returns:
        The image and how soft it was made: from -1 (sharpest) over 0 (as it was) to 1.
    """
    if settings.blur_mm and rng.random() < _KERNEL_P:
        sigmas = [rng.uniform(0, settings.blur_mm) / s for s in spacing]
        sigmas[0] *= len(image) > 1
        soft = max(s * mm for s, mm in zip(sigmas, spacing, strict=True)) / settings.blur_mm
        return blurred(image, tuple(sigmas)), soft
    if settings.sharpen and rng.random() < _KERNEL_P:
        gain = float(rng.uniform(0, settings.sharpen))
        # Bone and gas would ring far beyond what a scanner's kernel does.
        edge = (image - blurred(image, (_UNSHARP, _UNSHARP))).clamp(-150, 150)
        return image + gain * edge, -gain / settings.sharpen
    return image, 0.0


def noisy(
    image: Tensor,
    spacing: Spacing,
    softness: float,
    settings: Augment,
    rng: np.random.Generator,
) -> Tensor:
    """Noise as coarse as the kernel is soft, stronger where rays cross more of the body, streaks.

    Args:
        image: float32 HU (Z, Y, X).
        spacing: mm per voxel (Z, Y, X).
        softness: of the kernel, -1 to 1.
        settings: ``noise_hu``, ``grain_mm``, ``starve``, ``streak_hu``.
        rng: the only source of randomness.
    """
    if settings.noise_hu and rng.random() < _NOISE_P:
        white = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
        noise = white if not settings.grain_mm else _grain(white, spacing, softness, settings, rng)
        strength: Tensor | float = float(rng.uniform(0, settings.noise_hu))
        if settings.starve and rng.random() < settings.starve:
            strength = strength * _starved(image, spacing)
        image = image + noise * strength
    if settings.streak_hu and rng.random() < _KERNEL_P:
        image = image + _streaks(image, spacing, settings, rng)
    return image


def thick_slices(
    image: Tensor, spacing: Spacing, settings: Augment, rng: np.random.Generator
) -> Tensor:
    """The image as thick slices would show it on the same grid.

    Args:
        image: float32 HU (Z, Y, X).
        spacing: mm per voxel (Z, Y, X).
        settings: ``thick_p``, ``thick_mm``.
        rng: the only source of randomness.
    """
    if len(image) == 1 or not settings.thick_p or rng.random() >= settings.thick_p:
        return image
    thickness = float(rng.uniform(*settings.thick_mm)) / spacing[0]
    # Slices are often reconstructed at less than their thickness apart.
    step = thickness * float(rng.choice([1.0, 1.0, 0.8, 0.5]))
    if thickness <= 1:
        return image
    first = rng.uniform(-step / 2, step / 2)
    return along(image, slabs(len(image), max(step, 1.0), thickness, first), 0)


def _grain(
    white: Tensor, spacing: Spacing, softness: float, settings: Augment, rng: np.random.Generator
) -> Tensor:
    """Noise of the same strength, correlated in the slice's plane."""
    reach = settings.grain_mm * float(rng.uniform(0, 1)) * (1 + softness) / 2
    if reach < 0.2 * spacing[1]:
        return white
    grain = blurred(white, (reach / spacing[1], reach / spacing[2]))
    return grain / grain.std().clamp_min(1e-3)


def _water_mm(image: Tensor, spacing: Spacing, axis: int) -> Tensor:
    """mm of water that rays along an axis cross, kept as an axis of length 1."""
    return ((image - AIR_HU) / 1000).clamp(0, 2).mean(axis, keepdim=True) * (
        image.shape[axis] * spacing[axis]
    )


def _starved(image: Tensor, spacing: Spacing) -> Tensor:
    """Strength of noise by the attenuation along both axes of a slice, 1 on average."""
    across, down = (torch.exp(_NOISE_PER_MM * _water_mm(image, spacing, a)) for a in (2, 1))
    strength = across * down
    return strength / strength.mean()


def _streaks(
    image: Tensor, spacing: Spacing, settings: Augment, rng: np.random.Generator
) -> Tensor:
    """Streaks from left to right where rays cross most, as shoulders, hips and arms draw them."""
    lines = rng.standard_normal((*image.shape[:2], 1), dtype=np.float32)
    smooth = blurred(torch.from_numpy(lines), (0.7, 0.7, 0.0))
    water = _water_mm(image, spacing, 2)
    most = (water / water.max().clamp_min(1.0)) ** 4
    return float(rng.uniform(0, settings.streak_hu)) * smooth * most / smooth.std()
