"""Random changes of a training patch; geometry by MONAI, contrast by what CT physics varies."""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms import GaussianSmooth, RandAffine
from numpy.typing import NDArray
from torch import Tensor

from imaging.nifti import AIR_HU
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
    """A randomly turned, scaled, shifted and recoloured patch from the middle of a larger region.

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
        image, target = _affine(hu, labels, patch, settings, rng)
    image, target = _mirrored(image, target, settings, rng)
    image = _recolour(image, target, settings, rng)
    if settings.blur_mm and rng.random() < 0.3:
        sigma = [rng.uniform(0, settings.blur_mm) / s for s in spacing]
        flat = patch[0] == 1
        smooth = GaussianSmooth(sigma[1:] if flat else sigma)
        image = smooth(image if flat else image[None]).as_tensor().reshape(patch)
    if settings.noise_hu and rng.random() < 0.5:
        noise = rng.standard_normal(patch, dtype=np.float32)
        image = image + torch.from_numpy(noise) * float(rng.uniform(0, settings.noise_hu))
    return image, target


def keeps_place(settings: Augment, rng: np.random.Generator) -> bool:
    """Whether a patch is cut as it lies, by the chance of ``affine_p`` or because nothing moves it.

    Nearly half of a patch's time is its interpolation.
    """
    moves = any(settings.rotate_deg) or settings.shift or settings.scale != (1.0, 1.0)
    return not moves or rng.random() >= settings.affine_p


def augment_input(values: Tensor, settings: Augment, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, gamma and noise on a network's input, each by chance (nnU-Net).

    Args:
        values: float32 input of any shape.
        settings: how much of what.
        rng: the only source of randomness.
    """
    changes = (
        (settings.brightness, _brightness),
        (settings.spread, _spread),
        (settings.gamma, _gamma),
    )
    for (low, high), change in changes:
        if (low, high) != (1.0, 1.0) and rng.random() < settings.input_p:
            values = change(values, float(rng.uniform(low, high)))
    if settings.input_noise and rng.random() < settings.input_p:
        noise = torch.from_numpy(rng.standard_normal(tuple(values.shape), dtype=np.float32))
        values = values + noise * float(rng.uniform(0, settings.input_noise))
    return values


def _brightness(values: Tensor, factor: float) -> Tensor:
    return values * factor


def _spread(values: Tensor, factor: float) -> Tensor:
    mean = values.mean()
    return ((values - mean) * factor + mean).clamp(values.min(), values.max())


def _gamma(values: Tensor, exponent: float) -> Tensor:
    low, span = values.min(), values.max() - values.min()
    unit: Tensor = ((values - low) / span.clamp_min(1e-6)) ** exponent
    return unit * span + low


def _mirrored(
    image: Tensor, target: Tensor, settings: Augment, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    axes = [axis for axis, on in enumerate(settings.mirror) if on and rng.random() < 0.5]
    return (image.flip(axes), target.flip(axes)) if axes else (image, target)


def _affine(
    hu: NDArray[np.float32],
    labels: NDArray[np.uint8],
    patch: tuple[int, int, int],
    settings: Augment,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """One MONAI affine, bilinear for the CT and nearest for the labels."""
    flat = patch[0] == 1
    turns = np.deg2rad(settings.rotate_deg)
    low, high = settings.scale
    # MONAI's scale is of the sampling grid: 1 + uniform(range), the inverse of the zoom.
    zoom = (1 / high - 1, 1 / low - 1)
    size = patch[1:] if flat else patch
    affine = RandAffine(
        prob=1.0,
        rotate_range=float(turns[0]) if flat else [(-float(t), float(t)) for t in turns],
        scale_range=[zoom] * len(size),
        translate_range=[settings.shift * n for n in size],
        spatial_size=size,
        padding_mode="border",
    )
    affine.set_random_state(seed=int(rng.integers(2**31)))
    channels = torch.from_numpy(np.ascontiguousarray(hu, np.float32))
    values = torch.from_numpy(labels.astype(np.float32))
    if not flat:
        channels, values = channels[None], values[None]
    image = affine(channels, mode="bilinear").as_tensor()
    # The same draw again for the labels.
    target = affine(values, mode="nearest", randomize=False).as_tensor()
    return image.reshape(patch), target.round().to(torch.uint8).reshape(patch)


def _recolour(image: Tensor, target: Tensor, settings: Augment, rng: np.random.Generator) -> Tensor:
    """Another contrast phase, other organ means, another calibration."""
    if settings.contrast != (1.0, 1.0):
        factor = float(rng.uniform(*settings.contrast)) if rng.random() < 0.6 else 1.0
        enhanced = (image - _TISSUE_HU).clamp(0, _BONE_HU - _TISSUE_HU)
        # Bone keeps its brightness: the change fades out towards it.
        fade = 1 - ((image - 200) / 100).clamp(0, 1)
        image = image + (factor - 1) * enhanced * fade
    if settings.organ_hu:
        for value in torch.unique(target).tolist():
            if value:
                shift = float(rng.uniform(-settings.organ_hu, settings.organ_hu))
                image = torch.where(target == value, image + shift, image)
    if settings.offset_hu:
        image = image + float(rng.uniform(-settings.offset_hu, settings.offset_hu))
    return image.clamp_min(AIR_HU)
