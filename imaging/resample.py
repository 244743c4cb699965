"""From a CT's own grid to a model's grid and back, with SimpleITK."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from imaging.blocks import block_means, block_sizes
from imaging.geometry import Float, Geometry
from imaging.threads import spread
from imaging.volume import Volume

# Cosine between axes that still count as parallel: the far corner of a 500 mm volume moves by
# less than a hundred-thousandth of a millimetre.
_PARALLEL = 1e-8
# Offsets between grids are rounded to this part of a millimetre. An origin's last bits depend on
# the axis order in which a CT is stored; the voxels that come out must not.
_STEPS_PER_MM = 2**20


# Given the index of a slice and what is in it (Y, X).
TakeSlice = Callable[[int, NDArray[np.float32]], None]


def to_image(array: NDArray[Any], geometry: Geometry) -> sitk.Image:
    """The SimpleITK image of voxels (Z, Y, X); copies them once."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction[:, ::-1].ravel().tolist())
    return image


def resample_linear(volume: Volume, grid: Geometry, fill: float) -> Volume:
    """Values on another grid: box-averaged while much finer than it, then linear.

    Averaging whole blocks first keeps the CT's noise from aliasing and makes the rest cheap.
    Integers are rounded to the nearest.

    Args:
        volume: int16 or float32 on any grid.
        grid: where values are wanted.
        fill: outside of the volume.
    """
    result = np.empty(grid.shape, np.float32)
    linear_slices(volume, grid, fill, result.__setitem__)
    if volume.array.dtype.kind in "iu":
        result = np.rint(result, out=result).astype(volume.array.dtype)
    return Volume(result, grid, volume.warnings)


def linear_slices(volume: Volume, grid: Geometry, fill: float, take: TakeSlice) -> None:
    """What :func:`resample_linear` gives, a slice at a time: none is kept.

    Args:
        volume: int16 or float32; nothing is rounded.
        grid: where values are wanted.
        fill: outside of the volume.
        take: given the index of a slice and its values (Y, X), float32; called by several threads.
    """
    blocks = block_sizes(volume.geometry, grid)
    array, geometry = volume.array, volume.geometry
    if blocks != (1, 1, 1):
        array, geometry = block_means(array, geometry, blocks)
    lookups = _axis_lookups(geometry, grid)
    if lookups is not None:
        _interpolate(array, lookups, fill, take)
        return
    resampler = _resampler(geometry, grid, sitk.sitkLinear, fill)
    # SimpleITK cuts off the decimals of integers, which would darken a CT by half a unit.
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    image = resampler.Execute(_image_at_zero(array, geometry))
    for z, values in enumerate(sitk.GetArrayViewFromImage(image)):
        take(z, values)


def resample_nearest(labels: Volume, grid: Geometry) -> Volume:
    """A label map (uint8) on another grid; 0 outside of it."""
    lookups = _axis_lookups(labels.geometry, grid)
    if lookups is not None:
        return Volume(_look_up(labels.array, lookups, grid.shape), grid, labels.warnings)
    resampler = _resampler(labels.geometry, grid, sitk.sitkNearestNeighbor, 0)
    image = resampler.Execute(_image_at_zero(labels.array, labels.geometry))
    return Volume(sitk.GetArrayFromImage(image), grid, labels.warnings)


def _offset(source: Geometry, grid: Geometry) -> Float:
    """LPS mm (x, y, z) from the source's first voxel to the grid's."""
    apart = np.subtract(grid.origin, source.origin)
    return np.asarray(np.rint(apart * _STEPS_PER_MM) / _STEPS_PER_MM)


def _image_at_zero(array: NDArray[Any], geometry: Geometry) -> sitk.Image:
    return to_image(array, replace(geometry, origin=(0.0, 0.0, 0.0)))


def _resampler(
    source: Geometry, grid: Geometry, interpolator: int, fill: float
) -> sitk.ResampleImageFilter:
    """A resampler to the grid of an image whose first voxel was moved to zero."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(grid.shape[::-1])
    resampler.SetOutputSpacing(grid.spacing[::-1])
    resampler.SetOutputOrigin(_offset(source, grid).tolist())
    resampler.SetOutputDirection(grid.direction[:, ::-1].ravel().tolist())
    resampler.SetInterpolator(interpolator)
    resampler.SetDefaultPixelValue(fill)
    return resampler


def _axis_lookups(source: Geometry, grid: Geometry) -> list[Float] | None:
    """For grids with parallel axes, the source index of every grid index, axis by axis."""
    cosines = source.direction.T @ grid.direction
    if np.abs(cosines - np.eye(3)).max() > _PARALLEL:
        return None
    start = source.direction.T @ _offset(source, grid) / np.asarray(source.spacing)
    steps = np.asarray(grid.spacing) / np.asarray(source.spacing)
    return [start[a] + steps[a] * np.arange(grid.shape[a]) for a in range(3)]


def _interpolate(array: NDArray[Any], lookups: list[Float], fill: float, take: TakeSlice) -> None:
    """Linear interpolation along one axis after the other, as SimpleITK defines it.

    Half a voxel beyond the first and last one counts as inside and holds the edge's value.
    """
    taps = [_taps(values, n) for values, n in zip(lookups, array.shape, strict=True)]
    (low_z, part_z, in_z), (low_y, part_y, in_y), (low_x, part_x, in_x) = taps

    def interpolate(run: range) -> None:
        for z in run:
            rows = _between(array[low_z[z, 0]], array[low_z[z, 1]], part_z[z])
            # Columns first, while there are few rows: whole rows are gathered faster.
            rows = _between(rows[:, low_x[:, 0]], rows[:, low_x[:, 1]], part_x)
            rows = _between(rows[low_y[:, 0]], rows[low_y[:, 1]], part_y[:, None])
            rows[~in_y] = fill
            rows[:, ~in_x] = fill
            if not in_z[z]:
                rows.fill(fill)
            take(z, rows)

    spread(interpolate, len(in_z))


def _taps(
    values: Float, count: int
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.bool_]]:
    """Of source indices: the two voxels they lie between, how far, and whether inside."""
    nearest = np.floor(values + 0.5)
    inside = (nearest >= 0) & (nearest < count)
    held = np.clip(values, 0, count - 1)
    low = np.floor(held).astype(np.intp)
    both = np.stack([low, np.minimum(low + 1, count - 1)], axis=1)
    return both, (held - low).astype(np.float32), inside


def _between(low: NDArray[Any], high: NDArray[Any], part: Any) -> NDArray[Any]:
    """``low`` + ``part`` of the way to ``high``, in single precision."""
    result: NDArray[Any] = np.subtract(high, low, dtype=np.float32)
    result *= part
    result += low
    return result


def _look_up(
    array: NDArray[Any], lookups: list[Float], shape: tuple[int, int, int]
) -> NDArray[Any]:
    """Nearest neighbours by index: only the rows that hold something are visited."""
    result = np.zeros(shape, array.dtype)
    index = [np.floor(values + 0.5).astype(np.intp) for values in lookups]
    inside = [(i >= 0) & (i < n) for i, n in zip(index, array.shape, strict=True)]
    filled = [np.asarray(array.any(axis=tuple({0, 1, 2} - {a}))) for a in range(3)]
    used = [
        np.flatnonzero(ok & f[np.where(ok, i, 0)])
        for i, ok, f in zip(index, inside, filled, strict=True)
    ]
    if all(len(u) for u in used):
        # The rows that hold something lie in one box of the result: spans, not fancy indices.
        box = tuple(slice(u[0], u[-1] + 1) for u in used)
        source = [np.clip(i[s], 0, n - 1) for i, s, n in zip(index, box, array.shape, strict=True)]
        inner = result[box]

        def copy(run: range) -> None:
            for z in run:
                inner[z] = array[source[0][z]][source[1]][:, source[2]]

        spread(copy, len(inner))
    return result
