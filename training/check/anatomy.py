"""What is plausible in a patient. Every bound here is an assumption, wide on purpose.

The bounds are no reference values: they are set where no patient of an abdominal data set is
expected any more, disease and surgery included, so that what lies beyond is worth a look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# A median below it is fat's; the fattest liver or pancreas stays above.
_SOFT = (-80.0, 500.0)
# Air, food and positive contrast agent.
_HOLLOW = (-1050.0, 1500.0)


@dataclass(frozen=True)
class Plausible:
    """Bounds on a structure.

    Attributes:
        ml: least and most volume, lesions included; the least only where it is wholly in view.
        hu: bounds on the median of its voxels.
    """

    ml: tuple[float, float]
    hu: tuple[float, float] = _SOFT


PLAUSIBLE: Mapping[str, Plausible] = {
    "pancreas": Plausible((5, 1000)),
    "pancreas_tumor": Plausible((0, 1000)),
    "kidney": Plausible((20, 6000)),
    "kidney_tumor": Plausible((0, 5000)),
    "kidney_cyst": Plausible((0, 5000)),
    "liver": Plausible((300, 7000)),
    "spleen": Plausible((5, 5000)),
    "gallbladder": Plausible((0.5, 600), (-80, 1000)),
    "stomach": Plausible((5, 5000), _HOLLOW),
    "duodenum": Plausible((3, 800), _HOLLOW),
    "esophagus": Plausible((0.5, 500), _HOLLOW),
    "liver_tumor": Plausible((0, 6000)),
    "hepatic_vessel": Plausible((0.5, 800)),
    "colon": Plausible((20, 10000), _HOLLOW),
    "colon_tumor": Plausible((0, 2000)),
    "lung": Plausible((100, 12000), (-1050, 100)),
    "lung_tumor": Plausible((0, 3000), (-1000, 500)),
}


@dataclass(frozen=True)
class Relation:
    """Where two organs lie to each other: the first's centre has the smaller coordinate.

    Attributes:
        first, second: organs.
        axis: 0 up (S), 1 to the back (P), 2 to the left (L), as ``to_canonical`` orders them.
        place: where the first should be.
    """

    first: str
    second: str
    axis: int
    place: str


# Situs inversus, the one exception to the first three, is about one person in ten thousand.
RELATIONS: tuple[Relation, ...] = (
    Relation("liver", "spleen", 2, "to the patient's right of"),
    Relation("gallbladder", "spleen", 2, "to the patient's right of"),
    Relation("liver", "stomach", 2, "to the patient's right of"),
    Relation("pancreas", "kidney", 1, "in front of"),
    Relation("kidney", "lung", 0, "below"),
    Relation("kidney", "esophagus", 0, "below"),
)
# How far beyond each other two centres must be before they count as swapped.
RELATION_MM = 10.0
