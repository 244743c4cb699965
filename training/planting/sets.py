"""A data set of cases with real lesions planted into them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imaging.errors import BadParameter
from imaging.writers.nifti import write_nifti
from training.cases import Case, load
from training.datasets import ct_index
from training.lesions import Kind
from training.lesions.kinds import organ_of
from training.planting.cases import REAL, Planted, plant_case
from training.planting.shapes import SOURCES, Shapes


def plant_set(
    cases: Sequence[Case],
    out: Path,
    shapes: Shapes,
    copies: int,
    seed: int,
    kinds: tuple[Kind, ...] = REAL,
    count: tuple[int, int] = (1, 3),
) -> int:
    """Write copies of cases with other lesions in each, in the layout of ``ct_index``.

    The index's entries carry the CT's origin and the shapes', and the list of lesions. A copy
    depends on the seed, the case's name and its own number alone, not on how many are made.

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
        BadParameter: a folder that is not empty, fewer than one copy, a negative seed, cases none
            of which has an organ of these kinds, or what ``plant_case`` refuses.
        DataError: of :func:`training.cases.load`.
    """
    _check(cases, out, copies, seed, kinds)
    entries, planted = [], 0
    for name, case, made in _copies(cases, shapes, copies, seed, kinds, count):
        write_nifti(made.image, out / name / "ct.nii.gz")
        write_nifti(made.labels, out / name / "label.nii.gz")
        entries.append(_entry(name, case, made))
        planted += len(made.lesions)
    ct_index.write_index(out, entries)
    return planted


def _check(cases: Sequence[Case], out: Path, copies: int, seed: int, kinds: Sequence[Kind]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadParameter(f"{out} is not empty; name a new folder, a set is never mixed.")
    if copies < 1 or seed < 0:
        raise BadParameter(f"copies ({copies}) must be at least 1, seed ({seed}) at least 0.")
    organs = {organ_of(kind) for kind in kinds if kind in REAL}
    if organs and not any(organs & set(case.annotated) for case in cases):
        raise BadParameter(
            f"None of the {len(cases)} cases annotates {' or '.join(sorted(organs))}; name other "
            "data sets or kinds."
        )


def _copies(
    cases: Sequence[Case],
    shapes: Shapes,
    copies: int,
    seed: int,
    kinds: tuple[Kind, ...],
    count: tuple[int, int],
) -> Iterator[tuple[str, Case, Planted]]:
    """Name, case and what was made of it, each when it is asked for."""
    for case in cases:
        read = load(case)
        for copy in range(copies):
            rng = np.random.default_rng([seed, zlib.crc32(case.name.encode()), copy])
            yield f"{case.name}-{copy:03d}", case, plant_case(read, shapes, rng, kinds, count)


def _entry(name: str, case: Case, made: Planted) -> dict[str, Any]:
    """The copy's entry of the index."""
    used = [SOURCES[folder] for folder in SOURCES if _from(folder, made)]
    shapes = "; lesion shapes: " + ", ".join(s.name for s in used) if used else ""
    licence = case.source.get("licence", "not stated")
    return {
        "case": name,
        "annotated": list(made.annotated),
        "provenance": case.source.get("name", case.name) + shapes,
        "licence": "; ".join([licence, *(f"{s.name} {s.licence}" for s in used)]),
        "label": f"{case.source.get('labels', 'not stated')}; planted lesions exact",
        "split": case.split,
        "patient": case.group,
        "lesions": [dataclasses.asdict(lesion) for lesion in made.lesions],
    }


def _from(folder: str, made: Planted) -> bool:
    return any(lesion.shape.partition("/")[0] == folder for lesion in made.lesions)
