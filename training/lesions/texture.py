"""What a lesion looks like inside: HU without noise, by kind, by phase and by chance.

Numbers are typical values of each kind, an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.lesions.kinds import Kind
from training.lesions.tissue import Phase
from training.shapes import F32, SmoothField

# What fills a colon or a lung says nothing of their tumors: soft tissue, with and without contrast.
_SOFT_TISSUE_HU = (30.0, 90.0)
_UNENHANCED_STEP_HU = 10.0
_DENSE_CYST_CHANCE, _DENSE_CYST_HU, _CYST_HU = 0.12, (40.0, 70.0), (0.0, 20.0)
# Cancers of the pancreas that are nearly as bright as it: one of ten.
_FAINT_CHANCE = 0.1
_LOWEST_CANCER_HU = 25.0


@dataclass(frozen=True)
class Subtype:
    """A kind of kidney tumor.

    Attributes:
        share: of all, before they are brought to a sum of 1.
        level: range of its HU over the kidney's brightest, arterial and portal.
        strength: range of the unevenness, HU, arterial and portal.
        necrosis: chance of a dead core in a tumor of 3 cm and more.
        fat: chance of fat in it.
    """

    share: float
    level: tuple[tuple[float, float], tuple[float, float]]
    strength: tuple[tuple[float, float], tuple[float, float]]
    necrosis: float
    fat: float = 0.0


# Clear cell, papillary, chromophobe and oncocytoma, angiomyolipoma.
SUBTYPES = (
    Subtype(0.62, ((0.6, 1.0), (0.45, 0.8)), ((15, 35), (10, 22)), 0.55),
    Subtype(0.16, ((0.25, 0.45), (0.3, 0.5)), ((4, 9), (4, 9)), 0.25),
    Subtype(0.16, ((0.4, 0.7), (0.45, 0.7)), ((6, 14), (6, 12)), 0.15),
    Subtype(0.06, ((0.35, 0.7), (0.35, 0.7)), ((15, 30), (12, 25)), 0.0, fat=1.0),
)


@dataclass(frozen=True)
class Bed:
    """What a lesion lies in.

    Attributes:
        organ_hu: median of the organ about it.
        bright_hu: what a tenth of the organ is brighter than: a kidney's cortex.
        phase: of the scan.
    """

    organ_hu: float
    bright_hu: float
    phase: Phase


@dataclass(frozen=True, eq=False)
class Inside:
    """A lesion's box to draw in.

    Attributes:
        rng: source of everything random.
        at: coordinate vectors (z, y, x), mm from the lesion's centre.
        distance: (Z, Y, X) signed distance to its surface, mm, negative inside.
        radius: half its diameter, mm.
    """

    rng: np.random.Generator
    at: tuple[F32, F32, F32]
    distance: F32
    radius: float

    def field(self, step_mm: float, sd: float) -> F32:
        """A smooth random field (Z, Y, X)."""
        z, y, x = self.at
        lo, hi = (z[0], y[0], x[0]), (z[-1], y[-1], x[-1])
        return SmoothField(self.rng, lo, hi, step_mm, sd).on(z, y, x)

    def core(self) -> F32:
        """How much (0 to 1) of each voxel lies in an uneven core."""
        depth = self.rng.uniform(0.2, 0.5) * self.radius
        uneven = self.field(max(0.35 * self.radius, 3.0), 0.18 * self.radius)
        return _share(0.5 - (self.distance + depth + uneven) / (0.2 * self.radius))

    def rim(self, thick_mm: float) -> F32:
        """How much (0 to 1) of each voxel lies in a shell under the surface."""
        return _share(1.5 + self.distance / thick_mm)

    def specks(self, share: float) -> F32:
        """How much (0 to 1) of each voxel lies in small clumps."""
        return _share(self.field(3.0, 1.0) - np.float32(share))


def _share(value: F32) -> F32:
    return np.asarray(np.clip(value, 0, 1), np.float32)


def attenuation(kind: Kind, inside: Inside, bed: Bed) -> F32:
    """HU (Z, Y, X) without noise."""
    if kind == "kidney_cyst":
        return _cyst(inside)
    if kind == "kidney_tumor":
        return _kidney_tumor(inside, bed)
    if kind == "liver_tumor":
        return _metastasis(inside, bed)
    if kind == "pancreas_tumor":
        return _cancer(inside, bed)
    level = inside.rng.uniform(*_SOFT_TISSUE_HU)
    return _flat(level, inside)


def _flat(level: float, inside: Inside) -> F32:
    return np.asarray(level + inside.field(max(0.4 * inside.radius, 3.0), 5.0), np.float32)


def _cyst(inside: Inside) -> F32:
    rng = inside.rng
    dense = rng.random() < _DENSE_CYST_CHANCE
    level = rng.uniform(*(_DENSE_CYST_HU if dense else _CYST_HU))
    wall = rng.uniform(5, 25) if rng.random() < 0.5 else 0.0
    return np.asarray(level + wall * inside.rim(1.0), np.float32)


def _cancer(inside: Inside, bed: Bed) -> F32:
    """Darker than the pancreas where that takes up contrast medium, its middle a little more."""
    rng = inside.rng
    if bed.phase == "none":
        return _flat(bed.organ_hu + rng.uniform(-1, 1) * _UNENHANCED_STEP_HU, inside)
    step = rng.uniform(8, 20) if rng.random() < _FAINT_CHANCE else rng.uniform(20, 60)
    level = max(bed.organ_hu - step, _LOWEST_CANCER_HU)
    middle = np.clip(-inside.distance / inside.radius, 0, 1) * rng.uniform(0, 14)
    found = _flat(level, inside) - middle
    if inside.radius > 14 and rng.random() < 0.2:
        found += inside.core() * (rng.uniform(5, 25) - found)
    return np.asarray(found, np.float32)


def _kidney_tumor(inside: Inside, bed: Bed) -> F32:
    rng, radius = inside.rng, inside.radius
    shares = np.array([s.share for s in SUBTYPES])
    own = SUBTYPES[rng.choice(len(SUBTYPES), p=shares / shares.sum())]
    late = int(bed.phase != "arterial")
    if bed.phase == "none":
        level, strength = bed.organ_hu + rng.uniform(-1, 1) * _UNENHANCED_STEP_HU, 3.0
    else:
        level = max(bed.bright_hu * rng.uniform(*own.level[late]), 40.0)
        strength = rng.uniform(*own.strength[late])
    found = level + inside.field(max(0.5 * radius, 3.0), strength)
    found += inside.field(max(0.2 * radius, 2.5), 0.5 * strength)
    if rng.random() < own.fat:
        found += inside.specks(rng.uniform(0.2, 0.9)) * (rng.uniform(-90, -40) - found)
    if radius > 15 and rng.random() < own.necrosis:
        found += inside.core() * (rng.uniform(8, 32) - found)
    if rng.random() < 0.4:
        found += inside.rim(1.5) * rng.uniform(-30, 25)
    if rng.random() < 0.1:
        found += inside.specks(rng.uniform(1.6, 2.2)) * rng.uniform(150, 500)
    return np.asarray(found, np.float32)


def _metastasis(inside: Inside, bed: Bed) -> F32:
    """Darker than the liver around it, most of all in the portal phase; some with a dead core."""
    rng = inside.rng
    level = bed.organ_hu * rng.uniform(0.45, 0.8)
    found = _flat(level, inside)
    if inside.radius > 12 and rng.random() < 0.4:
        found += inside.core() * (0.5 * level - found)
    return np.asarray(found, np.float32)
