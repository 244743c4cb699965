"""The lesions that can be planted, and how each kind grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from models.labels import structure

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
        overhang: how hard it is to grow out of the organ: 0 keeps the lesion's form in the fat
            around, 1 stops at the organ's surface.
        wall_mm: for a hollow organ, the range of depths under its surface that the lesion reaches:
            a thickened wall, the lumen beyond it stays open. ``None`` for a solid organ.
        edge_mm: the range of widths over which it passes into its organ, beside what the scanner
            blurs.
    """

    diameter_mm: tuple[float, float, float]
    largest: float
    overhang: float
    wall_mm: tuple[float, float] | None = None
    edge_mm: tuple[float, float] = (0.0, 0.5)


GROWTH: dict[Kind, Growth] = {
    "pancreas_tumor": Growth((26, 12, 50), largest=0.5, overhang=0.35, edge_mm=(1.5, 5.0)),
    "kidney_tumor": Growth((36, 15, 80), largest=1.2, overhang=0.0, edge_mm=(0.0, 2.0)),
    "kidney_cyst": Growth((18, 8, 50), largest=0.8, overhang=0.0),
    "liver_tumor": Growth((26, 10, 80), largest=0.3, overhang=0.6, edge_mm=(0.0, 3.0)),
    "colon_tumor": Growth((40, 20, 70), largest=0.3, overhang=0.85, wall_mm=(5, 12)),
    "lung_tumor": Growth((18, 8, 50), largest=0.3, overhang=1.0),
}


@dataclass(frozen=True)
class Lesion:
    """A planted lesion.

    Attributes:
        kind: its structure's name.
        centre: of mass, in voxels (z, y, x) of the volume it was planted in.
        diameter_mm: of the sphere that has its volume.
        volume_ml: of its label.
        shape: name of the real lesion whose form it has; empty where the form was made.
    """

    kind: Kind
    centre: tuple[float, float, float]
    diameter_mm: float
    volume_ml: float
    shape: str = ""


def organ_of(kind: Kind) -> str:
    """The structure that a kind grows in."""
    return structure(kind).parent or kind


def sphere_mm(ml: float) -> float:
    """Diameter (mm) of the sphere of a volume (ml)."""
    return float(2 * (ml * 1000 * 3 / (4 * 3.141592653589793)) ** (1 / 3))
