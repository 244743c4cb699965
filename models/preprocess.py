"""From a CT to a network's input; the only implementation, used by training and serving."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from imaging.errors import InputTooLarge
from imaging.geometry import Geometry
from imaging.limits import DEFAULT_LIMITS
from imaging.nifti import AIR_HU
from imaging.resample import resample_linear
from imaging.volume import Volume, to_canonical
from models.manifest import Intensity, Sampling

# Neighbours that differ by more than that part of what any two voxels do are noise; judged where a
# slice has at least so many rows and columns.
_NOISE, _FEW = 0.5, 8
# The body is looked for in every so many millimetres; above this it is no air, lung or blanket.
_GLANCE_MM, _BODY_HU = 6.0, -300


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
    grid = model_grid(canonical.geometry, sampling)
    if sampling.body:
        grid = _around(body_corners(canonical), grid)
    return resample_linear(canonical, grid, AIR_HU)


def body_corners(volume: Volume) -> NDArray[np.float64]:
    """LPS mm (8, 3) of the corners of the box around the body: the largest thing that is no air.

    Looked for on every few voxels; what lies between them and the box's sides is looked at voxel by
    voxel, so that nothing bright is left out. A volume of air is its own box.
    """
    steps = [max(1, int(_GLANCE_MM / s)) for s in volume.geometry.spacing]
    seen = volume.array[tuple(slice(None, None, step) for step in steps)] > _BODY_HU
    box = [(0, n) for n in volume.array.shape]
    if seen.any():
        parts = sitk.ConnectedComponent(sitk.GetImageFromArray(seen.astype(np.uint8)))
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(parts)
        largest = max(shape.GetLabels(), key=shape.GetNumberOfPixels)
        x, y, z, nx, ny, nz = shape.GetBoundingBox(largest)
        found = zip((z, y, x), (nz, ny, nx), steps, volume.array.shape, strict=True)
        box = [(max(0, (a - 1) * s), min(n, (a + count) * s + 1)) for a, count, s, n in found]
        for axis, step in enumerate(steps):
            box[axis] = _tightened(volume.array, box, axis, step)
    ends = np.stack(np.meshgrid(*((a, b - 1.0) for a, b in box), indexing="ij"), -1)
    return np.asarray(volume.geometry.to_world(ends.reshape(-1, 3)))


def _tightened(
    array: NDArray[Any], box: list[tuple[int, int]], axis: int, step: int
) -> tuple[int, int]:
    """A box's range along an axis without the planes of air at its ends, a step of them at most."""
    planes = np.moveaxis(array[tuple(slice(a, b) for a, b in box)], axis, 0)
    start, stop = box[axis]

    def air(plane: int) -> bool:
        return bool(planes[plane].max() <= _BODY_HU)

    before = next((n for n in range(step) if not air(n)), step)
    after = next((n for n in range(step) if not air(-1 - n)), step)
    return start + before, stop - after


def _around(corners: NDArray[np.float64], grid: Geometry) -> Geometry:
    """The part of a grid that holds some points (N, 3); its voxels stay where they are."""
    index = grid.to_index(corners)
    low = np.clip(np.floor(index.min(0) + 1e-6), 0, np.array(grid.shape) - 1).astype(int)
    high = np.clip(np.ceil(index.max(0) - 1e-6), low, np.array(grid.shape) - 1).astype(int)
    return grid.crop(low.tolist(), (high - low + 1).tolist())


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


def featureless(image: NDArray[np.float32]) -> bool:
    """Whether a network input (Z, Y, X) shows nothing: one brightness, or noise in every slice.

    In noise a voxel tells nothing of the next one: the mean square of their difference is twice the
    variance. In slices of CTs it is less than half as much, also in crops of 60 mm. The first slice
    that shows something ends the search. Noise of voxels much coarser or finer than the network's
    grid is smooth or grey there and not told.
    """
    if not np.ptp(image):
        return True
    return all(_roughness(plane) > _NOISE for plane in image)


def _roughness(plane: NDArray[np.float32]) -> float:
    """How much neighbours in a slice (Y, X) differ, as a part of what any two voxels do.

    The larger one of both axes; 0 for one brightness, and for few voxels, which tell nothing.
    """
    usual = 2.0 * float(plane.var())
    if not usual or min(plane.shape) < _FEW:
        return 0.0
    return max(float(np.mean(np.square(np.diff(plane, axis=axis)))) for axis in (0, 1)) / usual


def round_half_up(value: float) -> int:
    """The nearest integer, halves up; tolerant of the last bits of a division."""
    return int(np.floor(value + 0.5 + 1e-6))
