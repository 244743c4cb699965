"""Random changes of a training patch: its geometry, and what CT physics varies."""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms import GaussianSmooth
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

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
    """One affine map about the middle, bilinear for the CT and nearest for the labels."""
    flat = patch[0] == 1
    size = patch[1:] if flat else patch
    region = np.array(hu.shape[1:] if flat else hu.shape)
    linear, moved = _drawn_affine(size, settings, rng)
    # torch's grids run from -1 to 1 over each axis and name the last axis first.
    theta = np.column_stack([linear * (np.array(size) / region[:, None]), 2 * moved / region])
    theta[:, :-1] = theta[::-1, -2::-1]
    theta[:, -1] = theta[::-1, -1]
    rows = torch.from_numpy(theta.astype(np.float32))[None]
    grid = functional.affine_grid(rows, [1, 1, *size], align_corners=False)
    image, target = (
        functional.grid_sample(
            torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(1, 1, *region),
            grid,
            mode=mode,
            padding_mode="border",
            align_corners=False,
        ).reshape(patch)
        for values, mode in ((hu, "bilinear"), (labels, "nearest"))
    )
    return image, target.to(torch.uint8)


def _drawn_affine(
    size: tuple[int, ...], settings: Augment, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a patch's voxels come from: linear part and shift, in voxels from the middle."""
    planes = [(0, 1)] if len(size) == 2 else [(1, 2), (2, 0), (0, 1)]
    linear = np.eye(len(size))
    for limit, (first, second) in zip(np.deg2rad(settings.rotate_deg), planes, strict=False):
        angle = rng.uniform(-limit, limit)
        turn = np.eye(len(size))
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        linear = linear @ turn
    low, high = settings.scale
    # The sampling grid's scale is the inverse of the zoom.
    zoom = rng.uniform(1 / high, 1 / low, len(size))
    shift = settings.shift * np.array(size)
    return linear * zoom, linear @ rng.uniform(-shift, shift)


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
