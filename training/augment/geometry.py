"""Where a patch's voxels come from: turned, scaled, shifted, bent, turned over."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from models.labels import UNKNOWN
from training.augment.filters import along, spline
from training.recipe import Augment

F64 = NDArray[np.float64]

# Distance of a bend's control points: below it organs would ripple, above it they would only shift.
_KNOTS_MM = (24.0, 56.0)
# An organ's own centre is sought within so much of one of its voxels, so that one of two kidneys
# grows, not both about the spine between them.
_REACH_MM = 60.0
_COARSE = 4


def keeps_place(settings: Augment, rng: np.random.Generator) -> bool:
    """Whether a patch is cut as it lies, by the chance of ``affine_p`` or because nothing moves it.

    Nearly half of a patch's time is its interpolation.
    """
    moves = any(settings.rotate_deg) or settings.shift or settings.scale != (1.0, 1.0)
    bends = settings.bend_mm or settings.organ_scale != (1.0, 1.0)
    return not (moves or bends) or rng.random() >= settings.affine_p


def moved(
    hu: NDArray[np.float32],
    labels: NDArray[np.uint8],
    patch: tuple[int, int, int],
    spacing: tuple[float, float, float],
    settings: Augment,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """One map about the region's middle, bilinear for the CT and nearest for the labels.

    Args:
        hu: float32 (Z, Y, X), larger than the patch.
        labels: uint8 on the same voxels.
        patch: (Z, Y, X) of the result; Z = 1 makes it a 2D patch.
        spacing: mm per voxel (Z, Y, X).
        settings: how much of what.
        rng: the only source of randomness.
    """
    flat = patch[0] == 1
    size, step = (patch[1:], spacing[1:]) if flat else (patch, spacing)
    region = np.array(hu.shape[1:] if flat else hu.shape)
    linear, shift = _drawn_affine(size, settings, rng)
    knots = _knots(size, step, settings, rng)
    where = _control_points(knots)
    points = (where * (np.array(size) / 2)) @ linear.T + shift
    points += _bend(points.shape, step, settings, rng)
    points += _growth(points, labels.reshape(tuple(region)), step, settings, rng)
    # torch's grids run from -1 to 1 over each axis and name the last axis first.
    grid = torch.from_numpy((points * 2 / region)[..., ::-1].astype(np.float32))
    for axis in reversed(range(len(size))):
        grid = along(grid, spline(size[axis], knots[axis]), axis)
    image, target = (
        functional.grid_sample(
            torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(1, 1, *region),
            grid[None],
            mode=mode,
            padding_mode="border",
            align_corners=False,
        ).reshape(patch)
        for values, mode in ((hu, "bilinear"), (labels, "nearest"))
    )
    return image, target.to(torch.uint8)


def mirrored(
    image: Tensor, target: Tensor, settings: Augment, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Both turned over along the same axes."""
    axes = [axis for axis, on in enumerate(settings.mirror) if on and rng.random() < 0.5]
    return (image.flip(axes), target.flip(axes)) if axes else (image, target)


def _drawn_affine(
    size: tuple[int, ...], settings: Augment, rng: np.random.Generator
) -> tuple[F64, F64]:
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


def _knots(
    size: tuple[int, ...],
    step: tuple[float, ...],
    settings: Augment,
    rng: np.random.Generator,
) -> list[int]:
    """How many control points each axis has; 4 carry an affine map."""
    if not settings.bend_mm and settings.organ_scale == (1.0, 1.0):
        return [4 for _ in size]
    apart = rng.uniform(*_KNOTS_MM)
    return [3 + max(1, round(n * s / apart)) for n, s in zip(size, step, strict=True)]


def _control_points(knots: list[int]) -> F64:
    """Positions (*knots, axes) of control points, -1 to 1 over the patch."""
    lines = [2 * (np.arange(k) - 1) / (k - 3) - 1 for k in knots]
    return np.stack(np.meshgrid(*lines, indexing="ij"), -1)


def _bend(
    shape: tuple[int, ...], step: tuple[float, ...], settings: Augment, rng: np.random.Generator
) -> F64:
    """A random shift of every control point, in voxels."""
    if not settings.bend_mm:
        return np.zeros(shape)
    shifts: F64 = rng.normal(0, rng.uniform(0, settings.bend_mm), shape) / np.array(step)
    return shifts


def _growth(
    points: F64,
    labels: NDArray[np.uint8],
    step: tuple[float, ...],
    settings: Augment,
    rng: np.random.Generator,
) -> F64:
    """Shifts, in voxels, that make one organ larger or smaller, fading out around it."""
    coarse = labels[(slice(None, None, _COARSE),) * labels.ndim]
    present = np.unique(coarse)
    values = present[(present > 0) & (present != UNKNOWN)]
    if settings.organ_scale == (1.0, 1.0) or not len(values):
        return np.zeros(points.shape)
    mm = np.argwhere(coarse == values[rng.integers(len(values))]) * _COARSE
    mm = (mm - (np.array(labels.shape) - 1) / 2) * np.array(step)
    mm = mm[np.linalg.norm(mm - mm[rng.integers(len(mm))], axis=1) < _REACH_MM]
    low, high = settings.organ_scale
    factor = 1 / rng.uniform(low, high)
    away = points * np.array(step) - mm.mean(0)
    width = 1.5 * np.linalg.norm(mm.std(0)) + 10
    fade = np.exp(-0.5 * (np.linalg.norm(away, axis=-1, keepdims=True) / width) ** 2)
    growth: F64 = (factor - 1) * fade * away / np.array(step)
    # Coefficients whose spline has these values at the control points.
    for axis in range(labels.ndim):
        growth = ndimage.spline_filter1d(growth, 3, axis, np.float64)
    return growth
