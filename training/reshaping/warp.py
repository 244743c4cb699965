"""A smooth change of space that gives an organ another form.

Thirion, "Image matching as a diffusion process: an analogy with Maxwell's demons", Medical Image
Analysis 1998; Vercauteren et al., "Diffeomorphic demons", NeuroImage 2009, here of two signed
distances: all that is told about an organ is where it ends, and what lies around follows smoothly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from imaging.geometry import Geometry
from imaging.nifti import AIR_HU
from imaging.resample import to_image
from imaging.volume import Volume, from_canonical, to_canonical

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Distances are told up to here; what is farther off neither pulls nor is pulled.
_FAR_MM = 25.0
# So much around both forms moves with them, and less and less of it over the outer part.
_AROUND_MM, _FADING_MM = 56.0, 24.0
# Wide enough that vessels and bowel around an organ bend as wholes (by eye).
_SMOOTH_MM, _UPDATE_SMOOTH_MM = 9.0, 4.0
_ITERATIONS = 60
# A voxel's volume is not pressed to less than this part of it: what folds is no anatomy.
_PRESSED = 0.05
_WEAKER = 0.85


@dataclass(frozen=True, eq=False)
class Warp:
    """Where in the CT each place of the changed CT comes from; several warps follow each other."""

    transform: sitk.Transform

    def image(self, volume: Volume) -> Volume:
        """HU on the CT's own grid, interpolated linearly; integers stay integers."""
        found = self._warped(volume, sitk.sitkLinear, AIR_HU, sitk.sitkFloat32)
        if volume.array.dtype.kind in "iu":
            found = np.rint(found).astype(volume.array.dtype)
        return volume.with_array(found)

    def labels(self, volume: Volume) -> Volume:
        """A label map (uint8) on its own grid, the nearest label."""
        return volume.with_array(self._warped(volume, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8))

    def _warped(
        self, volume: Volume, interpolator: int, fill: float, pixel: int
    ) -> NDArray[np.generic]:
        canonical = to_canonical(volume)
        image = to_image(canonical.array, canonical.geometry)
        moved = sitk.Resample(image, image, self.transform, interpolator, fill, pixel)
        found = canonical.with_array(sitk.GetArrayFromImage(moved))
        return np.ascontiguousarray(from_canonical(found, volume.geometry).array)


def chained(warps: list[Warp]) -> Warp:
    """Each warp done to what those before it made."""
    whole = sitk.CompositeTransform(3)
    for warp in warps:
        whole.AddTransform(warp.transform)
    return Warp(whole)


def towards(own: Mask, wanted: Mask, grid: Geometry) -> Warp:
    """The warp that gives an organ a form, as nearly as one without folds can.

    Args:
        own, wanted: the organ and the form (Z, Y, X), neither empty.
        grid: of both, axes exactly (S, P, L), the same spacing along each
            (``models.preprocess.model_grid``).
    """
    step = grid.spacing[0]
    box = _box(own | wanted, step)
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfIterations(_ITERATIONS)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(_SMOOTH_MM / step)
    demons.SetSmoothUpdateField(True)
    demons.SetUpdateFieldStandardDeviations(_UPDATE_SMOOTH_MM / step)
    found = demons.Execute(
        *(sitk.GetImageFromArray(_distance(m, step)[box]) for m in (wanted, own))
    )
    # Last axis (x, y, z), in voxels.
    moved = sitk.GetArrayFromImage(found).astype(np.float32)
    moved = unfolded(moved * _fading(moved.shape[:3], step)[..., None])
    field = np.zeros((*grid.shape, 3), np.float64)
    field[box] = moved * step
    return Warp(sitk.DisplacementFieldTransform(to_image(field, grid)))


def _box(mask: Mask, step: float) -> tuple[slice, slice, slice]:
    found, around = np.argwhere(mask), round(_AROUND_MM / step)
    low = np.maximum(found.min(0) - around, 0).tolist()
    high = np.minimum(found.max(0) + 1 + around, mask.shape).tolist()
    return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])


def _distance(mask: Mask, step: float) -> F32:
    """mm to the surface, positive within."""
    far = distance_transform_edt(mask) - distance_transform_edt(~mask)
    return np.asarray(np.clip(far * step, -_FAR_MM, _FAR_MM), np.float32)


def _fading(shape: tuple[int, ...], step: float) -> F32:
    """1 within, falling to 0 at the sides."""
    falling = (np.minimum(np.arange(n), np.arange(n)[::-1]) * step / _FADING_MM for n in shape)
    z, y, x = (np.minimum(values, 1).astype(np.float32) for values in falling)
    return np.asarray(z[:, None, None] * y[:, None] * x)


def unfolded(moved: F32) -> F32:
    """The displacements (Z, Y, X, 3), weakened until they press no voxel too far."""
    while _volumes(moved).min() < _PRESSED:
        moved = moved * np.float32(_WEAKER)
    return moved


def _volumes(moved: F32) -> F32:
    """The volume that each voxel comes from, in voxels (Z, Y, X)."""
    # Axes z, y, x; displacements x, y, z.
    along = [np.stack(list(np.gradient(moved[..., c])), -1)[..., ::-1] for c in range(3)]
    return np.asarray(np.linalg.det(np.stack(along, -2) + np.eye(3, dtype=np.float32)))
