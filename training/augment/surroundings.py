"""What lies around the body in a scan: table, arms, blanket, cables."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from training.augment.coarse import Coarse
from training.recipe import Augment

F32 = NDArray[np.float32]

_EACH_P = 0.5
# The room is darker than lung, and larger than bowel gas.
_ROOM_HU, _ROOM_ML = -920.0, 100.0
_NOTHING_HU = -1000.0


def other_surroundings(
    image: Tensor,
    target: Tensor,
    spacing: tuple[float, float, float],
    settings: Augment,
    rng: np.random.Generator,
) -> Tensor:
    """The patch with objects in the air around the body, the same in all slices.

    Args:
        image: float32 HU (Z, Y, X), Y to the back.
        target: uint8 labels on the same voxels.
        spacing: mm per voxel (Z, Y, X).
        settings: ``around_p``.
        rng: the only source of randomness.
    """
    if not settings.around_p or rng.random() >= settings.around_p:
        return image
    room = _room(Coarse(image, target, spacing), tuple(image.shape))
    away = ndimage.distance_transform_edt(room.all(0).numpy(), sampling=spacing[1:])
    if not away.any() or away.all():
        return image
    picture = np.full(away.shape, _NOTHING_HU, np.float32)
    y = np.arange(away.shape[0], dtype=np.float32)[:, None] * np.float32(spacing[1])
    x = np.arange(away.shape[1], dtype=np.float32)[None] * np.float32(spacing[2])
    for draw in (_table, _arm, _blanket, _cable):
        if rng.random() < _EACH_P:
            draw(picture, away.astype(np.float32), y, x, rng)
    soft = torch.from_numpy(ndimage.gaussian_filter(picture, 0.5))
    return torch.where(room, torch.maximum(image, soft), image)


def _room(patch: Coarse, shape: tuple[int, ...]) -> Tensor:
    """Voxels of the air around the body: large, and as dark as no lung is."""
    parts, _ = ndimage.label(patch.hu < -800)
    sizes = np.bincount(parts.ravel())
    means = np.bincount(parts.ravel(), patch.hu.ravel()) / np.maximum(sizes, 1)
    room = (sizes * np.prod(patch.spacing) / 1000 > _ROOM_ML) & (means < _ROOM_HU)
    room[0] = False
    found = torch.from_numpy(room[parts].astype(np.float32))[None, None]
    return functional.interpolate(found, size=shape, mode="nearest")[0, 0] > 0


def _table(picture: F32, away: F32, y: F32, x: F32, rng: np.random.Generator) -> None:
    """A curved shell under the back, foam in it."""
    back = _back(away, y)
    middle = float(x.mean() + rng.uniform(-40, 40))
    bend = (x - middle) ** 2 / (2 * rng.uniform(300, 2000))
    depth = y - (back + rng.uniform(2, 30)) + bend
    thick, high = rng.uniform(2, 6), rng.uniform(15, 60)
    picture[(depth > 0) & (depth < high)] = rng.uniform(-960, -700)
    shell = np.abs(depth - thick / 2) < thick / 2
    shell |= np.abs(depth - high) < thick / 2
    picture[shell] = rng.uniform(-300, 300)


def _back(away: F32, y: F32) -> float:
    """Where the body ends at the back, mm."""
    return float(y[(away == 0).any(1)].max(initial=0.0))


def _arm(picture: F32, away: F32, y: F32, x: F32, rng: np.random.Generator) -> None:
    """An arm that lies along the body, where there is room for one."""
    radius = rng.uniform(25, 50)
    beside = np.abs(away - radius - rng.uniform(0, 10)) < 4
    places = np.argwhere(beside & (y < _back(away, y) - radius / 2))
    if not len(places):
        return
    row, column = places[rng.integers(len(places))]
    away_y, away_x = y - y[row, 0], x - x[0, column]
    flat, fat = rng.uniform(0.8, 1.25), rng.uniform(3, 12)
    from_middle = np.hypot(away_y * flat, away_x / flat)
    picture[from_middle < radius] = -100
    picture[from_middle < radius - fat] = rng.uniform(30, 70)
    # One bone above the elbow, two below it.
    bones = int(rng.integers(1, 3))
    for side in (-1, 1)[:bones]:
        bone = np.hypot(away_y, away_x - (bones - 1) * side * 0.35 * radius)
        picture[bone < 0.3 * radius] = rng.uniform(600, 1300)
        picture[bone < 0.15 * radius] = rng.uniform(0, 300)


def _blanket(picture: F32, away: F32, y: F32, x: F32, rng: np.random.Generator) -> None:
    """Cloth around the body, in waves."""
    waves = np.sin(y / rng.uniform(10, 40) + rng.uniform(0, 6)) + np.sin(x / rng.uniform(10, 40))
    gap = rng.uniform(2, 15) + rng.uniform(0, 4) * waves
    picture[np.abs(away - gap) < rng.uniform(0.8, 2.5)] = rng.uniform(-850, -100)


def _cable(picture: F32, away: F32, y: F32, x: F32, rng: np.random.Generator) -> None:
    """A cable along the body, near the skin."""
    places = np.argwhere((away > 0) & (away < 15))
    row, column = places[rng.integers(len(places))]
    near = np.hypot(y - y[row, 0], x - x[0, column]) < rng.uniform(1.5, 4)
    picture[near] = rng.uniform(100, 3000)
