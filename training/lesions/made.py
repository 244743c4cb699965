"""Made lesions: uneven ellipsoids anywhere in their organ."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from models.labels import structure
from training.lesions.grow import Axes, Site, box_around, check, grow
from training.lesions.kinds import GROWTH, Growth, Kind, Lesion, organ_of, sphere_mm
from training.lesions.tissue import Mask, Spacing
from training.shapes import F32, SmoothField, ellipsoid, rotation


class MadeForm:
    """An uneven ellipsoid.

    Args:
        rng: source of its form.
        diameter_mm: about this large.
    """

    name = ""

    def __init__(self, rng: np.random.Generator, diameter_mm: float) -> None:
        radius = diameter_mm / 2
        self.diameter_mm, self.reach_mm = diameter_mm, 0.75 * diameter_mm
        ratios = np.exp(rng.normal(0, 0.13, 3))
        radii = (radius * ratios / np.prod(ratios) ** (1 / 3)).tolist()
        self._radii = (radii[0], radii[1], radii[2])
        self._tilt = rotation(tuple(rng.uniform(-90, 90, 3).tolist()))
        end = self.reach_mm
        step = max(0.7 * radius, 4.0)
        self._uneven = SmoothField(rng, (-end, -end, -end), (end, end, end), step, 0.1 * radius)

    def distance(self, at: Axes) -> F32:
        """Signed distance (Z, Y, X) in mm."""
        z, y, x = at
        mesh = (z[:, None, None], y[None, :, None], x[None, None, :])
        plain = ellipsoid(mesh, (0, 0, 0), self._radii, self._tilt)
        most = 0.15 * self.diameter_mm
        # The centre stays inside whatever the unevenness does.
        return np.asarray(plain + np.clip(self._uneven.on(z, y, x), -most, most), np.float32)


def plant(
    volume_hu: NDArray[Any],
    labels: NDArray[np.uint8],
    spacing: Spacing,
    kind: Kind,
    rng: np.random.Generator,
    diameter_mm: float | None = None,
) -> tuple[NDArray[Any], NDArray[np.uint8], Lesion | None]:
    """Grow a made lesion in its organ, and into the fat around it.

    Args:
        volume_hu: (Z, Y, X) HU, int16 or float32.
        labels: (Z, Y, X) values of ``models.labels``. Other labelled organs are left alone.
        spacing: (z, y, x) mm.
        kind: which lesion.
        rng: source of place, form, size and texture.
        diameter_mm: about this size; random where ``None``. Organs bound it.

    Returns:
        New HU (same type) and new labels; and the lesion, or ``None`` with the inputs unchanged
        where the organ is absent or too small for it.

    Raises:
        BadParameter: an unknown kind, or a diameter or spacing that is not positive.
        BadShape: arrays of different shapes.
    """
    check(volume_hu, labels, spacing, kind, diameter_mm)
    site = _site(labels, spacing, kind, rng, diameter_mm)
    if site is None:
        return volume_hu, labels, None
    return grow(volume_hu, labels, spacing, kind, rng, site)


def _site(
    labels: NDArray[np.uint8],
    spacing: Spacing,
    kind: Kind,
    rng: np.random.Generator,
    diameter_mm: float | None,
) -> Site | None:
    """An uneven ellipsoid about any voxel of the organ (of its surface, for a hollow one)."""
    growth, organ = GROWTH[kind], labels == structure(organ_of(kind)).value
    bound = sphere_mm(growth.largest * organ.sum() * float(np.prod(spacing)) / 1000)
    inside = np.flatnonzero(_surface(organ) if growth.wall_mm else organ)
    if bound < growth.diameter_mm[1] or not len(inside):
        return None
    diameter = min(diameter_mm or _diameter(growth, rng), bound)
    z, y, x = np.unravel_index(inside[rng.integers(len(inside))], labels.shape)
    seed = (int(z), int(y), int(x))
    form = MadeForm(rng, diameter)
    box = box_around(labels.shape, spacing, seed, form.reach_mm + 3 * max(spacing))
    return Site(form, seed, box, organ[box], growth.overhang)


def _diameter(growth: Growth, rng: np.random.Generator) -> float:
    middle, low, high = growth.diameter_mm
    return float(np.clip(middle * np.exp(rng.normal(0, 0.45)), low, high))


def _surface(organ: Mask) -> Mask:
    """The organ's outermost voxels; where the picture ends is no surface."""
    inner = sitk.BinaryErode(sitk.GetImageFromArray(organ.astype(np.uint8)), (1, 1, 1))
    return np.asarray(organ & (sitk.GetArrayViewFromImage(inner) == 0))
