"""From a CT to a network's input; the only implementation, used by training and serving."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputTooLarge
from imaging.geometry import Geometry
from imaging.limits import DEFAULT_LIMITS
from imaging.nifti import AIR_HU
from imaging.resample import resample_linear
from imaging.volume import Volume, to_canonical
from models.manifest import Intensity, Sampling


def model_grid(canonical: Geometry, sampling: Sampling) -> Geometry:
    """The grid on which a model sees a CT: axes exactly (S, P, L), centred on the CT's box.

    The grid depends on where the CT lies in the patient, not on how it is stored: any axis order
    of one CT gives one grid.

    Args:
        canonical: the CT's grid, axes closest to (S, P, L) (``imaging.volume.to_canonical``).
        sampling: the manifest's rule per axis.

    Raises:
        InputTooLarge: a CT whose extent in mm makes more voxels than a volume may have; its
            spacing is hardly in millimetres.
    """
    # Rows x, y, z of the corners, reversed to the array order (S, P, L).
    corners = canonical.corners()[:, ::-1]
    low, high = corners.min(axis=0), corners.max(axis=0)
    shape, spacing = [], []
    for axis in range(3):
        step = sampling.spacing_mm[axis] or canonical.spacing[axis]
        wanted = sampling.size[axis]
        extent = float(high[axis] - low[axis])
        if wanted is not None:
            step = (extent + canonical.spacing[axis]) / wanted
        count = wanted or round_half_up(extent / step) + 1
        shape.append(count)
        spacing.append(step)
    if math.prod(shape) > DEFAULT_LIMITS.max_voxels:
        size = " x ".join(f"{mm:.0f}" for mm in high - low)
        raise InputTooLarge(
            f"A CT of {size} mm has {math.prod(shape)} voxels for this model, at most "
            f"{DEFAULT_LIMITS.max_voxels} are taken; check its spacing {canonical.spacing} mm.",
            voxels=math.prod(shape),
            limit=DEFAULT_LIMITS.max_voxels,
        )
    middle = (low + high) / 2
    first = middle - (np.asarray(shape) - 1) / 2 * np.asarray(spacing)
    return Geometry(
        (shape[0], shape[1], shape[2]),
        (spacing[0], spacing[1], spacing[2]),
        (float(first[2]), float(first[1]), float(first[0])),
        np.eye(3)[:, ::-1],
    )


def to_model_grid(volume: Volume, sampling: Sampling) -> Volume:
    """The CT in Hounsfield units (its own dtype) on the model's grid; air outside of it."""
    canonical = to_canonical(volume)
    return resample_linear(canonical, model_grid(canonical.geometry, sampling), AIR_HU)


def normalise(hu: NDArray[np.generic], intensity: Intensity) -> NDArray[np.float32]:
    """Hounsfield units to network input, float32, same shape.

    ``scan`` scaling takes the minimum and maximum of what it is given, so give it whole scans.
    """
    low, high = intensity.window_hu
    # Clipped as float32, in place: numpy would clip int16 by way of float64.
    values = np.array(hu, np.float32)
    np.clip(values, low, high, out=values)
    if intensity.scale == "scan":
        low, high = float(values.min()), float(values.max())
    values -= np.float32(low)
    values /= np.float32(max(high - low, 1e-6))
    if intensity.scale == "signed":
        values *= np.float32(2)
        values -= np.float32(1)
    return values


def round_half_up(value: float) -> int:
    """The nearest integer, halves up; tolerant of the last bits of a division."""
    return int(np.floor(value + 0.5 + 1e-6))
