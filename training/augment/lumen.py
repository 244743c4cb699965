"""What fills stomach and bowel: gas, water, or a contrast agent that was drunk."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from models.labels import BY_NAME
from training.augment.coarse import Bool, Coarse
from training.recipe import Augment

F32 = NDArray[np.float32]

_HOLLOW = tuple(BY_NAME[name].value for name in ("stomach", "duodenum", "colon"))
_WALL_MM = (2.0, 5.0)
_AGENT_HU, _WATER_HU, _GAS_HU = (150.0, 500.0), (-5.0, 25.0), -900.0
_AGENT_P, _GAS_P, _POCKET_P = 0.7, 0.4, 0.5
# Gas of bowel: less is noise, more is lung or the room.
_POCKET_ML = (0.3, 80.0)
_GRAIN_HU = 40.0


def other_filling(
    image: Tensor,
    target: Tensor,
    spacing: tuple[float, float, float],
    settings: Augment,
    rng: np.random.Generator,
) -> Tensor:
    """The patch with other contents of its labelled hollow organs and of its pockets of gas.

    Args:
        image: float32 HU (Z, Y, X).
        target: uint8 labels on the same voxels; hollow organs may be missing.
        spacing: mm per voxel (Z, Y, X).
        settings: ``filling_p``.
        rng: the only source of randomness.
    """
    if not settings.filling_p or rng.random() >= settings.filling_p:
        return image
    patch = Coarse(image, target, spacing)
    fluid = float(rng.uniform(*(_AGENT_HU if rng.random() < _AGENT_P else _WATER_HU)))
    weight, contents = np.zeros_like(patch.hu), np.full_like(patch.hu, fluid)
    for value in _HOLLOW:
        lumen = patch.depth(patch.labels == value) > rng.uniform(*_WALL_MM)
        if lumen.any() and rng.random() < _POCKET_P:
            weight = np.maximum(weight, patch.soft(lumen, 2.0))
            contents[_above_level(lumen, rng)] = _GAS_HU
    pockets = ndimage.binary_dilation(_pockets(patch, rng))
    weight = np.maximum(weight, patch.soft(pockets, 1.5))
    if not weight.any():
        return image
    part, filling, mean = patch.fine(weight, contents, patch.hu)
    grain = (image - mean).clamp_(-_GRAIN_HU, _GRAIN_HU)
    return torch.lerp(image, filling.add_(grain), part.clamp_(0, 1))


def _above_level(lumen: Bool, rng: np.random.Generator) -> Bool:
    """The part of a lumen that gas fills, in front (patients lie on their backs); often none."""
    rows = np.flatnonzero(lumen.any(axis=(0, 2)))
    gas = np.zeros_like(lumen)
    if rng.random() < _GAS_P:
        level = int(rng.integers(rows[0], rows[-1] + 1))
        gas[:, :level] = lumen[:, :level]
    return gas


def _pockets(patch: Coarse, rng: np.random.Generator) -> Bool:
    """Some of the gas in bowel that nothing labels; what the patch cuts off may be lung or room."""
    parts, _ = ndimage.label((patch.hu < -400) & (patch.labels == 0))
    sizes = np.bincount(parts.ravel()) * np.prod(patch.spacing) / 1000
    low, high = _POCKET_ML
    chosen = (sizes >= low) & (sizes <= high) & (rng.random(len(sizes)) < _POCKET_P)
    chosen[0] = False
    for axis in range(1 if parts.shape[0] == 1 else 0, 3):
        chosen[parts.take([0, -1], axis)] = False
    return np.asarray(chosen[parts])
