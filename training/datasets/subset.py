"""Some cases of a data set as one of their own, labelled for fewer structures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME, STRUCTURES, UNKNOWN, structure, visible_as
from training.cases import Case, Loaded, load
from training.datasets import ct_index


def write_subset(
    cases: Sequence[Case],
    out: Path,
    names: Sequence[str] = (),
    annotated: Sequence[str] = (),
) -> list[str]:
    """Write cases in the layout of ``ct_index``; CTs are hard links where the disk allows it.

    What is not annotated any more is erased from the label maps: a lesion becomes part of its
    organ where that is annotated, anything else unlabelled.

    Args:
        cases: to choose from, of any layout.
        out: a new or empty folder.
        names: of the cases to take, in this order; all where empty.
        annotated: structures to keep, of those that a case annotates; all where empty.

    Returns:
        The names of the cases written.

    Raises:
        BadParameter: no such case, no such structure, a case that annotates none of those to keep,
            or a folder that is not empty.
        DataError: of :func:`training.cases.load`.
    """
    if out.exists() and any(out.iterdir()):
        raise BadParameter(f"{out} is not empty; name a new folder, a set is never mixed.")
    chosen = _chosen(cases, names)
    for name in annotated:
        structure(name)
    kept = {case.name: _kept(case, annotated) for case in chosen}
    entries = []
    for case in chosen:
        read = narrowed(load(case), kept[case.name])
        write_image(case.image, read, out / case.name)
        write_nifti(read.labels, out / case.name / "label.nii.gz")
        entries.append(ct_index.entry_of(case, kept[case.name]))
    ct_index.write_index(out, entries)
    return [case.name for case in chosen]


def narrowed(case: Loaded, annotated: Iterable[str]) -> Loaded:
    """A case as one who labels only these structures would have labelled it.

    Args:
        case: in memory.
        annotated: of the structures that it annotates.
    """
    kept = tuple(annotated)
    labels = visible_values(kept)[case.labels.array]
    return Loaded(case.name, case.image, case.labels.with_array(labels), kept)


def visible_values(annotated: Sequence[str]) -> NDArray[np.uint8]:
    """What each label value is where only these structures are annotated, uint8 (256,)."""
    table = np.zeros(256, np.uint8)
    for one in STRUCTURES:
        seen = visible_as(one.name, annotated)
        if seen is not None:
            table[one.value] = BY_NAME[seen].value
    table[UNKNOWN] = UNKNOWN
    return table


def _chosen(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    known = {case.name: case for case in cases}
    missing = [name for name in names if name not in known]
    if missing:
        raise BadParameter(
            f"There is no case {', '.join(missing)[:200]}; there are {', '.join(known)[:500]}."
        )
    return [known[name] for name in names] if names else list(cases)


def _kept(case: Case, annotated: Sequence[str]) -> tuple[str, ...]:
    kept = tuple(n for n in case.annotated if n in annotated) if annotated else case.annotated
    if not kept:
        raise BadParameter(
            f"Case {case.name} annotates {', '.join(case.annotated)}, none of which is to be kept; "
            "leave the case or keep one of them."
        )
    return kept


def write_image(image: Path, read: Loaded, home: Path) -> None:
    """Put a CT into a case's new folder, under the name that the layout of ``ct_index`` has for it.

    Args:
        image: where it lies; linked rather than copied where the disk allows it.
        read: the case, for a file of another format.
        home: the folder.
    """
    home.mkdir(parents=True)
    if image.is_dir():
        shutil.copytree(image, home / "dicom", copy_function=_link_or_copy)
    elif image.name.endswith(".nii.gz"):
        _link_or_copy(image, home / "ct.nii.gz")
    else:
        write_nifti(read.image, home / "ct.nii.gz")


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another disk, or one without links.
        shutil.copyfile(source, target)
