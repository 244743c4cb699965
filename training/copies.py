"""A data set of changed copies of cases."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imaging.errors import BadParameter
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from training.cases import Case, Loaded, load
from training.datasets import ct_index
from training.planting.shapes import SOURCES


@dataclass(frozen=True, eq=False)
class Copied:
    """A case changed with the help of real shapes.

    Attributes:
        image, labels: HU and values of ``models.labels``, on one grid.
        annotated: structures whose every voxel is labelled.
        shapes: names of the shapes in it, each beginning with its source's folder.
        kind: what the shapes are of, for its provenance, such as ``lesion``.
        labelling: what its labels are beside the case's own.
        told: more for its entry of the index.
    """

    image: Volume
    labels: Volume
    annotated: tuple[str, ...]
    shapes: tuple[str, ...]
    kind: str
    labelling: str
    told: Mapping[str, Any]


def write_copies(
    cases: Sequence[Case],
    out: Path,
    copies: int,
    seed: int,
    make: Callable[[Loaded, np.random.Generator], Copied],
    mark: str = "",
) -> Iterator[Copied]:
    """Write copies of cases in the layout of ``ct_index``, yielding each; the index comes last.

    The index's entries carry the CT's origin and the shapes', and name the case as the patient. A
    copy depends on the seed, the case's name and its own number alone, not on how many are made.

    Args:
        cases: of any layout.
        out: a new or empty folder.
        copies: of each case.
        seed: of the set.
        make: changes a case.
        mark: before a copy's number in its name, so that sets of several kinds go together.

    Raises:
        BadParameter: a folder that is not empty, fewer than one copy, or a negative seed.
        DataError: of :func:`training.cases.load`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadParameter(f"{out} is not empty; name a new folder, a set is never mixed.")
    if copies < 1 or seed < 0:
        raise BadParameter(f"copies ({copies}) must be at least 1, seed ({seed}) at least 0.")
    entries = []
    for case in cases:
        read = load(case)
        for number in range(copies):
            rng = np.random.default_rng([seed, zlib.crc32(case.name.encode()), number])
            made, name = make(read, rng), f"{case.name}-{mark}{number:03d}"
            write_nifti(made.image, out / name / "ct.nii.gz")
            write_nifti(made.labels, out / name / "label.nii.gz")
            entries.append(_entry(name, case, made))
            yield made
    ct_index.write_index(out, entries)


def _entry(name: str, case: Case, made: Copied) -> dict[str, Any]:
    """The copy's entry of the index."""
    folders = {shape.partition("/")[0] for shape in made.shapes}
    used = [source for folder, source in SOURCES.items() if folder in folders]
    shapes = f"; {made.kind} shapes: " + ", ".join(s.name for s in used) if used else ""
    licence = case.source.get("licence", "not stated")
    return {
        "case": name,
        "annotated": list(made.annotated),
        "provenance": case.source.get("name", case.name) + shapes,
        "licence": "; ".join([licence, *(f"{s.name} {s.licence}" for s in used)]),
        "label": f"{case.source.get('labels', 'not stated')}; {made.labelling}",
        "split": case.split,
        "patient": case.group,
        **made.told,
    }
