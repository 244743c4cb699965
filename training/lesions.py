"""Lesions planted into any labelled CT, real or phantom: more tumors to learn from and to test on.

The lesion's contrast is added under the image's own grain, so that noise and kernel stay those of
the scan. All work is done in the lesion's box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from imaging.errors import BadParameter, BadShape
from models.labels import structure
from training.shapes import F32, SmoothField, ellipsoid, rotation

Kind = Literal[
    "pancreas_tumor", "kidney_tumor", "kidney_cyst", "liver_tumor", "colon_tumor", "lung_tumor"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Growth:
    """How one kind of lesion grows.

    Attributes:
        diameter_mm: median, and the range that random diameters are clipped to; assumption, as
            all that follows.
        largest: the lesion's volume over its organ's at most.
        overhang: how hard it is to grow out of the organ: 0 keeps the round shape in the fat
            around, 1 stops at the organ's surface.
        wall_mm: for a hollow organ, the range of depths under its surface that the lesion reaches:
            a thickened wall, the lumen beyond it stays open. ``None`` for a solid organ.
    """

    diameter_mm: tuple[float, float, float]
    largest: float
    overhang: float
    wall_mm: tuple[float, float] | None = None


GROWTH: dict[Kind, Growth] = {
    "pancreas_tumor": Growth((26, 12, 50), largest=0.5, overhang=0.35),
    "kidney_tumor": Growth((36, 15, 80), largest=1.2, overhang=0.0),
    "kidney_cyst": Growth((18, 8, 50), largest=0.8, overhang=0.0),
    "liver_tumor": Growth((26, 10, 80), largest=0.3, overhang=0.6),
    "colon_tumor": Growth((40, 20, 70), largest=0.3, overhang=0.85, wall_mm=(5, 12)),
    "lung_tumor": Growth((18, 8, 50), largest=0.3, overhang=1.0),
}
# What fills a colon or a lung says nothing of their tumors: soft tissue, with and without contrast.
_SOFT_TISSUE_HU = (30.0, 90.0)
# Where a lesion may grow beside its organ: fat and urine, judged on a local mean (HU). Bone,
# vessels, muscle and bowel wall are brighter, gas is darker.
_GIVES_WAY_HU = (-170.0, 20.0)
_NEVER_BELOW_HU = -250.0
_FAT_HU = (-170.0, -50.0)
_SMALLEST_VOXELS = 8


@dataclass(frozen=True)
class Lesion:
    """A planted lesion.

    Attributes:
        kind: its structure's name.
        centre: of mass, in voxels (z, y, x) of the volume it was planted in.
        diameter_mm: of the sphere that has its volume.
        volume_ml: of its label.
    """

    kind: Kind
    centre: tuple[float, float, float]
    diameter_mm: float
    volume_ml: float


def plant(
    volume_hu: NDArray[Any],
    labels: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    kind: Kind,
    rng: np.random.Generator,
    diameter_mm: float | None = None,
) -> tuple[NDArray[Any], NDArray[np.uint8], Lesion | None]:
    """Grow a lesion in its organ, and into the fat around it.

    Args:
        volume_hu: (Z, Y, X) HU, int16 or float32.
        labels: (Z, Y, X) values of ``models.labels``. Other labelled organs are left alone.
        spacing: (z, y, x) mm.
        kind: which lesion.
        rng: source of place, shape, size and texture.
        diameter_mm: about this size; random where ``None``. Organs bound it.

    Returns:
        New HU (same type) and new labels; and the lesion, or ``None`` with the inputs unchanged
        where the organ is absent or too small for it.

    Raises:
        BadParameter: an unknown kind, or a diameter or spacing that is not positive.
        BadShape: arrays of different shapes.
    """
    _check(volume_hu, labels, spacing, kind, diameter_mm)
    growth, parent = GROWTH[kind], structure(structure(kind).parent or kind).value
    organ = labels == parent
    bound = 2 * _radius_mm(growth.largest * organ.sum() * float(np.prod(spacing)) / 1000)
    diameter = min(diameter_mm or _diameter(growth, rng), bound)
    inside = np.flatnonzero(_surface(organ) if growth.wall_mm else organ)
    if bound < growth.diameter_mm[1] or not len(inside):
        return volume_hu, labels, None
    z, y, x = np.unravel_index(inside[rng.integers(len(inside))], labels.shape)
    seed = (int(z), int(y), int(x))
    box, at = _box(labels.shape, spacing, seed, 0.75 * diameter + 3 * max(spacing))
    hu, mine = volume_hu[box].astype(np.float32), organ[box]
    local = _local_mean(hu)
    distance = _extent(rng, growth, at, diameter / 2, mine, spacing)
    free = (labels[box] == 0) & (local > _GIVES_WAY_HU[0]) & (local < _GIVES_WAY_HU[1])
    allowed = mine | (free & (hu > _NEVER_BELOW_HU))
    grown = _connected((distance < 0) & allowed, seed, box)
    if np.count_nonzero(grown) < _SMALLEST_VOXELS:
        return volume_hu, labels, None
    target = _attenuation(rng, kind, at, distance, diameter / 2, float(np.median(hu[mine])))
    cover = np.clip(0.5 - distance / np.float32(np.prod(spacing) ** (1 / 3)), 0, 1) * allowed
    changed = hu + cover * (target + _grain(hu, mine, local, growth) - hu)
    return _result(volume_hu, labels, spacing, kind, box, changed, grown)


def _check(
    volume_hu: NDArray[Any],
    labels: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    kind: Kind,
    diameter_mm: float | None,
) -> None:
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


def _radius_mm(ml: float) -> float:
    return float((ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3))


def _diameter(growth: Growth, rng: np.random.Generator) -> float:
    middle, low, high = growth.diameter_mm
    return float(np.clip(middle * np.exp(rng.normal(0, 0.45)), low, high))


def _box(
    shape: tuple[int, ...],
    spacing: tuple[float, float, float],
    seed: tuple[int, int, int],
    reach_mm: float,
) -> tuple[tuple[slice, ...], tuple[F32, F32, F32]]:
    """The voxels within reach of the seed, and their coordinate vectors relative to it (mm)."""
    box, axes = [], []
    for n, step, s in zip(shape, spacing, seed, strict=True):
        count = int(np.ceil(reach_mm / step))
        lo, hi = max(0, s - count), min(n, s + count + 1)
        box.append(slice(lo, hi))
        axes.append(((np.arange(lo, hi) - s) * step).astype(np.float32))
    return tuple(box), (axes[0], axes[1], axes[2])


def _surface(organ: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The organ's outermost voxels; where the picture ends is no surface."""
    inner = sitk.BinaryErode(sitk.GetImageFromArray(organ.astype(np.uint8)), (1, 1, 1))
    return np.asarray(organ & (sitk.GetArrayViewFromImage(inner) == 0))


def _extent(
    rng: np.random.Generator,
    growth: Growth,
    at: tuple[F32, F32, F32],
    radius: float,
    organ: NDArray[np.bool_],
    spacing: tuple[float, float, float],
) -> F32:
    """Signed distance (mm) on the box to what the lesion would fill."""
    distance = _shape(rng, at, radius)
    distance = np.where(organ, distance, distance + np.float32(growth.overhang * radius))
    if growth.wall_mm is None:
        return distance
    image = sitk.GetImageFromArray(organ.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    depth = sitk.SignedMaurerDistanceMap(image, True, squaredDistance=False, useImageSpacing=True)
    thick = rng.uniform(*growth.wall_mm) + np.clip(_field(rng, at, 8.0, 1.5), -4, 4)
    return np.asarray(np.maximum(distance, sitk.GetArrayFromImage(depth) - thick), np.float32)


def _shape(rng: np.random.Generator, at: tuple[F32, F32, F32], radius: float) -> F32:
    """Signed distance (mm) on the box to an uneven ellipsoid about the seed."""
    ratios = np.exp(rng.normal(0, 0.13, 3))
    radii = radius * ratios / np.prod(ratios) ** (1 / 3)
    z, y, x = at
    tilt = rotation(tuple(rng.uniform(-90, 90, 3).tolist()))
    plain = ellipsoid(
        (z[:, None, None], y[None, :, None], x[None, None, :]),
        (0, 0, 0),
        tuple(radii.tolist()),
        tilt,
    )
    uneven = _field(rng, at, max(0.7 * radius, 4.0), 0.1 * radius)
    # The seed stays inside whatever the unevenness does.
    return np.asarray(plain + np.clip(uneven, -0.3 * radius, 0.3 * radius), dtype=np.float32)


def _field(rng: np.random.Generator, at: tuple[F32, F32, F32], step_mm: float, sd: float) -> F32:
    z, y, x = at
    return SmoothField(rng, (z[0], y[0], x[0]), (z[-1], y[-1], x[-1]), step_mm, sd).on(z, y, x)


def _local_mean(hu: F32) -> F32:
    """Mean over 3 voxels along z and 5 in the slice."""
    mean = sitk.BoxMean(sitk.GetImageFromArray(hu), (2, 2, 1))
    return np.asarray(sitk.GetArrayFromImage(mean), dtype=np.float32)


def _grain(hu: F32, organ: NDArray[np.bool_], local: F32, growth: Growth) -> F32:
    """The image's noise: what is left without the local mean.

    Organ and surroundings are averaged apart, or the organ's old surface would show inside the
    lesion; what passes for noise at other edges is limited. What fills a hollow organ is all
    edges: there the noise is that of the fat around, 0 where there is none.
    """
    part = _local_mean(organ.astype(np.float32))
    own = _local_mean(np.where(organ, hu, 0).astype(np.float32))
    mean = np.where(organ, own / np.maximum(part, 0.01), (local - own) / np.maximum(1 - part, 0.01))
    residual = np.asarray(hu - mean, dtype=np.float32)
    fat = ~organ & (local > _FAT_HU[0]) & (local < _FAT_HU[1])
    measured, most = (organ, 2.5) if growth.wall_mm is None else (fat, 1.0)
    noise = 1.4826 * float(np.median(np.abs(residual[measured]))) if measured.any() else 0.0
    return np.clip(residual, -most * noise, most * noise)


def _connected(
    mask: NDArray[np.bool_], seed: tuple[int, int, int], box: tuple[slice, ...]
) -> NDArray[np.bool_]:
    """The part of the box's mask that hangs together with the seed (z, y, x in the volume)."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    z, y, x = (s - b.start for s, b in zip(seed, box, strict=True))
    part = sitk.ConnectedThreshold(image, [(x, y, z)], lower=1, upper=1)
    return np.asarray(sitk.GetArrayFromImage(part) > 0)


def _attenuation(
    rng: np.random.Generator,
    kind: Kind,
    at: tuple[F32, F32, F32],
    distance: F32,
    radius: float,
    organ_hu: float,
) -> F32:
    """HU (Z, Y, X) without noise; typical values, assumption."""
    if kind == "kidney_cyst":
        wall = np.where(distance > -1.0, rng.uniform(0, 25), 0.0)
        return np.asarray(rng.uniform(0, 20) + wall, dtype=np.float32)
    if kind == "kidney_tumor":
        return _kidney_tumor(rng, at, distance, radius, organ_hu)
    if kind == "liver_tumor":
        return _metastasis(rng, at, distance, radius, organ_hu)
    if kind == "pancreas_tumor":
        level = organ_hu - rng.uniform(20, 60)
    else:
        level = rng.uniform(*_SOFT_TISSUE_HU)
    return np.asarray(level + _field(rng, at, max(0.4 * radius, 3.0), 5.0), dtype=np.float32)


def _kidney_tumor(
    rng: np.random.Generator,
    at: tuple[F32, F32, F32],
    distance: F32,
    radius: float,
    organ_hu: float,
) -> F32:
    enhanced = organ_hu > 70
    level = organ_hu * rng.uniform(0.4, 0.95) if enhanced else organ_hu + rng.uniform(-8, 14)
    strength = rng.uniform(6, 22) if enhanced else 3.0
    texture = _field(rng, at, max(0.5 * radius, 3.0), strength)
    found = level + texture + _field(rng, at, max(0.2 * radius, 2.5), 0.5 * strength)
    if radius > 14 and rng.random() < 0.45:
        found += _core(rng, at, distance, radius) * (rng.uniform(10, 35) - found)
    if rng.random() < 0.35:
        found += np.where(distance > -1.5, rng.uniform(-30, 30), 0.0)
    return np.asarray(found, dtype=np.float32)


def _metastasis(
    rng: np.random.Generator,
    at: tuple[F32, F32, F32],
    distance: F32,
    radius: float,
    organ_hu: float,
) -> F32:
    """Darker than the liver around it, most of all in the portal phase; some with a dead core."""
    level = organ_hu * rng.uniform(0.45, 0.8)
    found = level + _field(rng, at, max(0.4 * radius, 3.0), 5.0)
    if radius > 12 and rng.random() < 0.4:
        found += _core(rng, at, distance, radius) * (0.5 * level - found)
    return np.asarray(found, dtype=np.float32)


def _core(rng: np.random.Generator, at: tuple[F32, F32, F32], distance: F32, radius: float) -> F32:
    """How much (0 to 1) of each voxel lies in an uneven core of the lesion."""
    depth = rng.uniform(0.25, 0.55) * radius
    uneven = distance + depth + _field(rng, at, max(0.35 * radius, 3.0), 0.15 * radius)
    return np.asarray(np.clip(0.5 - uneven / (0.2 * radius), 0, 1), np.float32)


def _result(
    volume_hu: NDArray[Any],
    labels: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    kind: Kind,
    box: tuple[slice, ...],
    changed: F32,
    grown: NDArray[np.bool_],
) -> tuple[NDArray[Any], NDArray[np.uint8], Lesion]:
    hu, marked = volume_hu.copy(), labels.copy()
    hu[box] = np.rint(changed) if np.issubdtype(hu.dtype, np.integer) else changed
    marked[box][grown] = structure(kind).value
    where = np.argwhere(grown)
    centre = where.mean(0) + [b.start for b in box]
    ml = len(where) * float(np.prod(spacing)) / 1000
    z, y, x = centre.tolist()
    return hu, marked, Lesion(kind, (z, y, x), 2 * _radius_mm(ml), ml)
