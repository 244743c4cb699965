"""A lesion drawn where it grows, whatever its form: contrast, soft edges, the scan's own grain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from imaging.errors import BadParameter, BadShape
from models.labels import structure
from training.lesions.kinds import GROWTH, KINDS, Growth, Kind, Lesion, sphere_mm
from training.lesions.texture import Bed, Inside, attenuation
from training.lesions.tissue import (
    Mask,
    Spacing,
    grain,
    local_mean,
    phase_of,
    point_spread_mm,
    room,
)
from training.shapes import F32

_SMALLEST_VOXELS = 8
# Thick slices are drawn as the mean of thinner ones of at most this, mm.
_THIN_MM = 2.0
# A blur of this standard deviation is about as wide as a straight ramp of 2.5 times that.
_RAMP = 2.5
# A mean of ones, to rounding.
_WHOLE = 0.999

Axes = tuple[F32, F32, F32]
Boxed = tuple[slice, ...]
Voxel = tuple[int, int, int]


class Form(Protocol):
    """The form of a lesion.

    ``name`` is that of the real lesion it is of, or empty; ``diameter_mm`` that of the sphere of
    its volume; nothing of it is farther than ``reach_mm`` from its centre.
    """

    @property
    def name(self) -> str: ...

    @property
    def diameter_mm(self) -> float: ...

    @property
    def reach_mm(self) -> float: ...

    def distance(self, at: Axes) -> F32:
        """Signed distance (Z, Y, X) in mm, negative inside.

        Args:
            at: coordinate vectors (z, y, x) of a regular grid, mm from the centre.
        """


@dataclass(frozen=True, eq=False)
class Site:
    """Where a lesion grows.

    Attributes:
        form: of the lesion.
        seed: its centre's voxel in the volume.
        box: of the volume around it, (z, y, x).
        organ: (Z, Y, X) of the box.
        overhang: how hard it is to grow out of the organ, see :class:`Growth`.
    """

    form: Form
    seed: Voxel
    box: Boxed
    organ: Mask
    overhang: float


def grow(
    volume_hu: NDArray[Any],
    labels: NDArray[np.uint8],
    spacing: Spacing,
    kind: Kind,
    rng: np.random.Generator,
    site: Site,
) -> tuple[NDArray[Any], NDArray[np.uint8], Lesion | None]:
    """Draw a lesion at its site.

    Args:
        volume_hu, labels, spacing: checked by :func:`check`.
        kind: which lesion.
        rng: source of its texture.
        site: where.

    Returns:
        New HU (same type), new labels, the lesion; the inputs and ``None`` where hardly a voxel
        has room.
    """
    changed, grown = _drawn(volume_hu, labels, spacing, kind, site, rng)
    if np.count_nonzero(grown) < _SMALLEST_VOXELS:
        return volume_hu, labels, None
    hu, marked = volume_hu.copy(), labels.copy()
    hu[site.box] = np.rint(changed) if np.issubdtype(hu.dtype, np.integer) else changed
    marked[site.box][grown] = structure(kind).value
    return hu, marked, _told(grown, site, spacing, kind)


def check(
    volume_hu: NDArray[Any],
    labels: NDArray[np.uint8],
    spacing: Spacing,
    kind: Kind,
    diameter_mm: float | None,
) -> None:
    """Refuse what no lesion can be planted in.

    Raises:
        BadParameter: an unknown kind, or a diameter or spacing that is not positive.
        BadShape: arrays of different shapes.
    """
    if kind not in GROWTH:
        raise BadParameter(
            f"There is no lesion {str(kind)[:64]!r}; choose from {', '.join(KINDS)}."
        )
    if volume_hu.shape != labels.shape or labels.ndim != 3:
        raise BadShape(
            f"The CT is {volume_hu.shape} and its labels {labels.shape}; give both as (Z, Y, X)."
        )
    if min(spacing) <= 0 or (diameter_mm is not None and diameter_mm <= 0):
        raise BadParameter(
            f"Spacing {tuple(spacing)} mm and diameter {diameter_mm} mm must be positive."
        )


def widened(box: Boxed, shape: tuple[int, ...], spacing: Spacing, margin_mm: float) -> Boxed:
    """A box with a margin (mm) around it, within a volume of a shape."""
    more = [int(np.ceil(margin_mm / s)) for s in spacing]
    return tuple(
        slice(max(0, b.start - m), min(n, b.stop + m))
        for b, n, m in zip(box, shape, more, strict=True)
    )


def box_around(shape: tuple[int, ...], spacing: Spacing, seed: Voxel, reach_mm: float) -> Boxed:
    """The voxels within reach of the seed."""
    return widened(tuple(slice(s, s + 1) for s in seed), shape, spacing, reach_mm)


def connected(mask: Mask, seed: Voxel, box: Boxed) -> Mask:
    """The part of the box's mask that hangs together with the seed (z, y, x in the volume)."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    z, y, x = (s - b.start for s, b in zip(seed, box, strict=True))
    part = sitk.ConnectedThreshold(image, [(x, y, z)], lower=1, upper=1)
    return np.asarray(sitk.GetArrayFromImage(part) > 0)


def _axes(site: Site, spacing: Spacing, thinner: int) -> tuple[F32, F32, F32]:
    """Coordinates (mm from the seed) of the box's voxels, each slice as several thinner ones."""
    z, y, x = (
        ((np.arange(b.start, b.stop) - s) * step).astype(np.float32)
        for b, s, step in zip(site.box, site.seed, spacing, strict=True)
    )
    within = (np.arange(thinner) - (thinner - 1) / 2) * spacing[0] / thinner
    return (z[:, None] + within.astype(np.float32)).ravel(), y, x


def _drawn(
    volume_hu: NDArray[Any],
    labels: NDArray[np.uint8],
    spacing: Spacing,
    kind: Kind,
    site: Site,
    rng: np.random.Generator,
) -> tuple[F32, Mask]:
    """The box's new HU and the lesion's voxels."""
    growth, mine = GROWTH[kind], site.organ
    hu = volume_hu[site.box].astype(np.float32)
    local = local_mean(hu)
    allowed = room(hu, labels[site.box], mine, spacing)
    distance, cover = _extent(site, growth, spacing, rng, point_spread_mm(volume_hu, spacing))
    grown = connected((cover > 0.5) & allowed, site.seed, site.box)
    near = local_mean(grown.astype(np.float32)) > 0
    # Strands and specks that it grew around are part of it; what is cut off from it stays.
    closed = (local_mean(near.astype(np.float32)) > _WHOLE) & (cover > 0.5)
    grown |= closed & ((labels[site.box] == 0) | mine)
    cover *= (allowed & near) | grown
    at = _axes(site, spacing, 1)
    inside = Inside(rng, at, distance, site.form.diameter_mm / 2)
    own = hu[mine] if mine.any() else hu.ravel()
    bright = local[mine] if mine.any() else local.ravel()
    bed = Bed(
        float(np.median(own)), float(np.quantile(bright, 0.9)), phase_of(volume_hu, labels, spacing)
    )
    target = attenuation(kind, inside, bed)
    noise = grain(hu, mine, local, growth.wall_mm is not None)
    return hu + cover * (target + noise - hu), grown


def _extent(
    site: Site, growth: Growth, spacing: Spacing, rng: np.random.Generator, blur_mm: float
) -> tuple[F32, F32]:
    """Signed distance (mm) to what the lesion would fill, and how much of each voxel that is."""
    thinner = int(np.ceil(spacing[0] / _THIN_MM))
    at = _axes(site, spacing, thinner)
    organ = np.repeat(site.organ, thinner, 0)
    distance = site.form.distance(at)
    overhang = np.float32(site.overhang * site.form.diameter_mm / 2)
    distance = np.where(organ, distance, distance + overhang)
    if growth.wall_mm is not None:
        depth = np.repeat(_depth(site.organ, spacing), thinner, 0)
        uneven = Inside(rng, at, distance, 0.0).field(8.0, 1.5)
        thick = rng.uniform(*growth.wall_mm) + np.clip(uneven, -4, 4)
        distance = np.maximum(distance, depth - thick)
    wide = np.sqrt(spacing[1] ** 2 + (_RAMP * blur_mm) ** 2 + rng.uniform(*growth.edge_mm) ** 2)
    cover = np.clip(0.5 - distance / np.float32(wide), 0, 1)
    slices = (len(site.organ), thinner, *distance.shape[1:])
    return (
        np.asarray(distance.reshape(slices).mean(1), np.float32),
        np.asarray(cover.reshape(slices).mean(1), np.float32),
    )


def _depth(organ: Mask, spacing: Spacing) -> F32:
    """Distance (mm) from the organ's surface, positive inside."""
    image = sitk.GetImageFromArray(organ.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    depth = sitk.SignedMaurerDistanceMap(image, True, squaredDistance=False, useImageSpacing=True)
    return np.asarray(sitk.GetArrayFromImage(depth), np.float32)


def _told(grown: Mask, site: Site, spacing: Spacing, kind: Kind) -> Lesion:
    where = np.argwhere(grown)
    z, y, x = (where.mean(0) + [b.start for b in site.box]).tolist()
    ml = len(where) * float(np.prod(spacing)) / 1000
    return Lesion(kind, (z, y, x), sphere_mm(ml), ml, site.form.name)
