"""A data set of cases with real lesions planted into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imaging.errors import BadParameter
from training.cases import Case, Loaded
from training.copies import Copied, write_copies
from training.lesions import Kind
from training.lesions.kinds import organ_of
from training.planting.cases import REAL, plant_case
from training.planting.shapes import Shapes


def plant_set(
    cases: Sequence[Case],
    out: Path,
    shapes: Shapes,
    copies: int,
    seed: int,
    kinds: tuple[Kind, ...] = REAL,
    count: tuple[int, int] = (1, 3),
) -> int:
    """Write copies of cases with other lesions in each (:func:`training.copies.write_copies`).

    The index's entries list the lesions.

    Args:
        cases: of any layout, taken as free of lesions that they have no labels for.
        out: a new or empty folder.
        shapes: the library.
        copies: of each case.
        seed: of the set.
        kinds, count: as in :func:`training.planting.plant_case`.

    Returns:
        How many lesions were planted.

    Raises:
        BadParameter: cases none of which has an organ of these kinds, or what ``write_copies`` and
            ``plant_case`` refuse.
        DataError: of :func:`training.cases.load`.
    """
    organs = {organ_of(kind) for kind in kinds if kind in REAL}
    if organs and not any(organs & set(case.annotated) for case in cases):
        raise BadParameter(
            f"None of the {len(cases)} cases annotates {' or '.join(sorted(organs))}; name other "
            "data sets or kinds."
        )

    def make(case: Loaded, rng: np.random.Generator) -> Copied:
        made = plant_case(case, shapes, rng, kinds, count)
        names = tuple(lesion.shape for lesion in made.lesions)
        told = {"lesions": [dataclasses.asdict(lesion) for lesion in made.lesions]}
        exact = "planted lesions exact"
        return Copied(made.image, made.labels, made.annotated, names, "lesion", exact, told)

    return sum(len(made.shapes) for made in write_copies(cases, out, copies, seed, make))
