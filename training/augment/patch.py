"""A training patch, changed in the order in which a CT comes about: body, scanner, extent."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imaging.nifti import AIR_HU
from training.augment.extent import left_out
from training.augment.geometry import mirrored, moved
from training.augment.lumen import other_filling
from training.augment.phase import other_phase
from training.augment.scanner import noisy, other_kernel, thick_slices
from training.augment.surroundings import other_surroundings
from training.recipe import Augment

# Unenhanced soft tissue; what is brighter is enhanced by contrast agent up to where bone begins.
_TISSUE_HU, _BONE_HU = 45.0, 300.0


def augment_patch(
    hu: NDArray[np.float32],
    labels: NDArray[np.uint8],
    patch: tuple[int, int, int],
    spacing: tuple[float, float, float],
    settings: Augment,
    rng: np.random.Generator,
    still: bool = False,
) -> tuple[Tensor, Tensor]:
    """A randomly bent, recoloured and newly scanned patch from the middle of a larger region.

    Args:
        hu: (Z, Y, X) Hounsfield units, at least as large as the patch.
        labels: uint8 label map on the same voxels.
        patch: (Z, Y, X) of the result; Z = 1 makes it a 2D patch.
        spacing: mm per voxel (Z, Y, X).
        settings: how much of what.
        rng: the only source of randomness.
        still: the region is the patch itself and stays where it is, see :func:`keeps_place`.

    Returns:
        float32 HU and uint8 labels, both of shape ``patch``.
    """
    if still:
        image, target = torch.from_numpy(hu), torch.from_numpy(labels)
    else:
        image, target = moved(hu, labels, patch, spacing, settings, rng)
    image, target = mirrored(image, target, settings, rng)
    image = other_phase(image, target, spacing, settings, rng)
    image = _recolour(image, target, settings, rng)
    image = other_filling(image, target, spacing, settings, rng)
    image = other_surroundings(image, target, spacing, settings, rng)
    image, softness = other_kernel(image, spacing, settings, rng)
    image = noisy(image, spacing, softness, settings, rng)
    image = thick_slices(image, spacing, settings, rng)
    return left_out(image, target, spacing, settings, rng)


def _recolour(image: Tensor, target: Tensor, settings: Augment, rng: np.random.Generator) -> Tensor:
    """Another contrast phase, other organ means, another calibration."""
    if settings.contrast != (1.0, 1.0):
        factor = float(rng.uniform(*settings.contrast)) if rng.random() < 0.6 else 1.0
        enhanced = (image - _TISSUE_HU).clamp(0, _BONE_HU - _TISSUE_HU)
        # Bone keeps its brightness: the change fades out towards it.
        fade = 1 - ((image - 200) / 100).clamp(0, 1)
        image = image + (factor - 1) * enhanced * fade
    if settings.organ_hu:
        shifts = torch.zeros(256)
        for value in np.flatnonzero(np.bincount(target.numpy().ravel())[1:]) + 1:
            shifts[value] = float(rng.uniform(-settings.organ_hu, settings.organ_hu))
        image = image + shifts[target.int()]
    if settings.offset_hu:
        image = image + float(rng.uniform(-settings.offset_hu, settings.offset_hu))
    return image.clamp_min(AIR_HU)
