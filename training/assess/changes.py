"""Changes of a whole CT at its own resolution: as another scanner, protocol or table had made it.

All take and give volumes whose axes run to (S, P, L), ``imaging.volume.to_canonical``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from imaging.nifti import AIR_HU
from imaging.resample import resample_nearest
from imaging.volume import Volume
from models.manifest import Sampling
from models.preprocess import to_model_grid

F32 = NDArray[np.float32]

# The grain of a CT's noise in the slice, standard deviation of a Gaussian; assumption.
_GRAIN_MM = 0.6
# Soft tissue without contrast agent; what is above it, and no bone, is enhancement. Assumption.
UNENHANCED_HU = 45.0
# Bone is found on a grid of 3 mm, where vessels in the portal phase stay below this.
_BONE_HU, _BONE_GRID_MM, _BONE_ML = 250.0, 3.0, 0.5
# Half the widest hollow of trabecular bone that its cortex closes around.
_BONE_CLOSING = 3
# Over so many voxels of a slice, and no fat, the enhancement is averaged, so that noise stays.
_SMOOTH = 5
_FAT_HU = -100.0


@dataclass(frozen=True, eq=False)
class Changed:
    """A changed CT and the labels (uint8) it is judged by, which may lie on another grid."""

    image: Volume
    truth: Volume


def noise_field(ct: Volume, rng: np.random.Generator) -> F32:
    """Noise (Z, Y, X) of standard deviation 1 with the grain of a CT."""
    field = rng.standard_normal(ct.array.shape, np.float32)
    sigma = [0.0, *(_GRAIN_MM / mm for mm in ct.geometry.spacing[1:])]
    field = ndimage.gaussian_filter(field, sigma, truncate=2.0)
    return np.asarray(field / field.std(), np.float32)


def noisy(case: Changed, field: F32, sd_hu: float) -> Changed:
    """Noise of ``sd_hu`` a voxel on top of the scan's own."""
    return replace(case, image=_with_hu(case.image, case.image.array + np.float32(sd_hu) * field))


def thick(case: Changed, thickness_mm: float) -> tuple[Changed, float]:
    """Neighbouring slices averaged into one, and what thickness (mm) that made.

    As many as come nearest to the thickness; slices that do not fill a block are dropped. The
    labels stay on the thin slices, so that what thick ones cannot show is lost in the score.
    """
    spacing = case.image.geometry.spacing[0]
    count = max(1, round(thickness_mm / spacing))
    blocks = case.image.array.shape[0] // count
    if count == 1 or blocks < 2:
        return case, spacing
    hu = case.image.array[: blocks * count]
    mean = hu.reshape(blocks, count, *hu.shape[1:]).mean(1, dtype=np.float32)
    grid = case.image.geometry
    first = grid.to_world(((count - 1) / 2, 0, 0))
    coarse = replace(
        grid.crop((0, 0, 0), mean.shape),
        spacing=(spacing * count, *grid.spacing[1:]),
        origin=(float(first[0]), float(first[1]), float(first[2])),
    )
    image = Volume(np.rint(mean).astype(np.int16), coarse)
    return Changed(image, _slices(case.truth, 0, blocks * count)), spacing * count


def enhancement(ct: Volume) -> F32:
    """By how many HU (Z, Y, X) contrast agent brightens each voxel; 0 in bone, fat and gas."""
    hu = ct.array.astype(np.float32)
    tissue = (hu > 0).astype(np.float32)
    above = np.maximum(hu - np.float32(UNENHANCED_HU), 0)
    window = (1, _SMOOTH, _SMOOTH)
    # Over soft tissue alone: an average across an organ's surface would leave a bright rim.
    part = ndimage.uniform_filter(tissue, window)
    found = ndimage.uniform_filter(above, window) / np.maximum(part, 1 / _SMOOTH**2)
    # What is partly fat is brightened in part.
    share = np.clip((hu - _FAT_HU) / (found + np.float32(UNENHANCED_HU - _FAT_HU)), 0, 1)
    found *= share * (tissue > 0) * ~_bone(ct)
    return np.asarray(found, np.float32)


def washed_out(case: Changed, enhanced: F32, left: float) -> Changed:
    """The scan with a part (0 to 1) of its enhancement left, noise and bone as they were."""
    hu = case.image.array - np.float32(1 - left) * enhanced
    return replace(case, image=_with_hu(case.image, hu))


def turned(case: Changed, axis: int, degrees: float) -> Changed:
    """The patient turned about its middle: an oblique grid, no voxel interpolated.

    Args:
        case: what to turn.
        axis: 0 about S (onto a side), 1 about P (sideways), 2 about L (nodding).
        degrees: right-handed.
    """
    grid = case.image.geometry
    vector = np.eye(3)[2 - axis] * np.radians(degrees)
    turn = Rotation.from_rotvec(vector).as_matrix()
    middle = grid.corners().mean(0)
    x, y, z = (turn @ (np.asarray(grid.origin) - middle) + middle).tolist()
    oblique = replace(grid, origin=(x, y, z), direction=turn @ grid.direction)
    return Changed(Volume(case.image.array, oblique), Volume(case.truth.array, oblique))


def cut(case: Changed, kept: float) -> Changed:
    """The scan ends within the organs.

    Args:
        case: what to cut.
        kept: the part of the labelled slices that is left: the lower ones where negative, the
            upper ones where positive.
    """
    there = np.flatnonzero(case.truth.array.any(axis=(1, 2)))
    lost = round((1 - abs(kept)) * len(there))
    depth = case.image.array.shape[0]
    first, last = (there[lost], depth) if kept > 0 else (0, there[len(there) - 1 - lost] + 1)
    return Changed(
        _slices(case.image, int(first), int(last)), _slices(case.truth, int(first), int(last))
    )


def small_field(case: Changed, diameter_mm: float) -> Changed:
    """A round field of view about the middle of the labelled organs; air and no labels outside."""
    organs = np.argwhere(case.truth.array.any(axis=0))
    steps = np.asarray(case.image.geometry.spacing[1:])
    middle = (organs.min(0) + organs.max(0)) / 2
    y, x = (
        (np.arange(n) - m) * mm
        for n, m, mm in zip(case.image.array.shape[1:], middle, steps, strict=True)
    )
    inside = y[:, None] ** 2 + x[None, :] ** 2 <= (diameter_mm / 2) ** 2
    hu = np.where(inside, case.image.array, AIR_HU).astype(case.image.array.dtype)
    return Changed(
        case.image.with_array(hu), case.truth.with_array(case.truth.array * inside.astype(np.uint8))
    )


def _bone(ct: Volume) -> NDArray[np.bool_]:
    """Bone (Z, Y, X) with the marrow it encloses, and what lies within some millimetres of it."""
    coarse = to_model_grid(ct, Sampling((_BONE_GRID_MM,) * 3))
    parts, count = ndimage.label(coarse.array > _BONE_HU)
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * coarse.geometry.voxel_ml
    large = np.flatnonzero(sizes >= _BONE_ML)
    bone = np.isin(parts, large[large > 0])
    closed = ndimage.binary_closing(np.pad(bone, _BONE_CLOSING), iterations=_BONE_CLOSING)
    core = closed[(slice(_BONE_CLOSING, -_BONE_CLOSING),) * 3]
    grown = ndimage.binary_dilation(core).astype(np.uint8)
    return resample_nearest(coarse.with_array(grown), ct.geometry).array.astype(np.bool_)


def _slices(volume: Volume, first: int, last: int) -> Volume:
    part = volume.array[first:last]
    return Volume(part, volume.geometry.crop((first, 0, 0), part.shape))


def _with_hu(ct: Volume, hu: F32) -> Volume:
    return ct.with_array(np.clip(np.rint(hu), -32768, 32767).astype(np.int16))
