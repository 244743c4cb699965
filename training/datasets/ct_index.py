"""Single CTs listed in an ``index.json`` that says what each is annotated with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imaging.errors import DataError
from imaging.files import write_whole
from imaging.writers.nifti import write_nifti
from models.labels import STRUCTURES, UNKNOWN, UNKNOWN_NAME
from training.cases import Case
from training.phantoms.scan import Phantom


def marks(folder: Path) -> bool:
    """An ``index.json``."""
    return (folder / "index.json").is_file()


def cases(folder: Path) -> list[Case]:
    """The cases of a folder with ``index.json``.

    The index holds ``labels`` (value to structure) and ``cases``, each with ``case`` (its
    folder's name), ``annotated``, ``provenance``, ``licence``, ``label`` (how it was labelled) and
    ``split`` (``train`` where there is none) and ``patient`` (for several cases of one). A case
    folder has ``label.nii.gz`` and
    ``ct.nii.gz`` or ``dicom/``.

    Raises:
        DataError: the index does not parse, or a case's files are not there.
    """
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        values = {int(value): str(name) for value, name in index["labels"].items()}
        return [_case(folder, entry, values) for entry in index["cases"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder.name}/index.json does not parse ({error!r}).") from error


def write(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms, all with the labels they have."""
    entries = []
    for index, phantom in enumerate(phantoms):
        home = out / f"ct_{index:03d}"
        write_nifti(phantom.volume, home / "ct.nii.gz")
        write_nifti(phantom.labels, home / "label.nii.gz")
        entries.append(
            {
                "case": home.name,
                "annotated": list(phantom.annotated),
                "provenance": "procedural phantoms",
                "licence": "Apache-2.0",
                "label": "exact",
            }
        )
    write_index(out, entries)


def entry_of(case: Case, annotated: Sequence[str]) -> dict[str, Any]:
    """The index's entry of a case that is written anew, annotated as said."""
    return {
        "case": case.name,
        "annotated": list(annotated),
        "provenance": case.source.get("name", case.name),
        "licence": case.source.get("licence", "not stated"),
        "label": case.source.get("labels", "not stated"),
        "split": case.split,
        "patient": case.group,
    }


def write_index(out: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the index of case folders with label maps of Islet's own values.

    Args:
        out: folder of the set.
        entries: of :func:`cases`; further keys are kept for the reader.
    """
    known = {name for entry in entries for name in entry["annotated"]}
    labels = {str(s.value): s.name for s in STRUCTURES if s.name in known}
    labels[str(UNKNOWN)] = UNKNOWN_NAME
    index = {"labels": labels, "cases": list(entries)}
    write_whole(out / "index.json", (json.dumps(index, indent=2) + "\n").encode())


def _case(folder: Path, entry: dict[str, object], values: dict[int, str]) -> Case:
    name = str(entry["case"])
    home = folder / name
    image = next((p for p in (home / "ct.nii.gz", home / "dicom") if p.exists()), None)
    label = home / "label.nii.gz"
    if image is None or not label.is_file():
        raise DataError(f"Case {name}: needs label.nii.gz and ct.nii.gz or dicom/.", case=name)
    annotated = entry["annotated"]
    if not isinstance(annotated, list):
        raise DataError(f"Case {name}: annotated must be a list of structures.", case=name)
    source = {
        "name": str(entry.get("provenance", name)),
        "licence": str(entry.get("licence", "not stated")),
        "labels": str(entry.get("label", "not stated")),
    }
    return Case(
        name,
        image,
        label,
        values,
        tuple(map(str, annotated)),
        source,
        split=str(entry.get("split", "train")),
        patient=str(entry.get("patient", "")),
    )
