"""Single CTs listed in an ``index.json`` that says what each is annotated with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from imaging.errors import DataError
from imaging.files import write_whole
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from training.cases import Case
from training.phantoms.scan import Phantom


def marks(folder: Path) -> bool:
    """An ``index.json``."""
    return (folder / "index.json").is_file()


def cases(folder: Path) -> list[Case]:
    """The cases of a folder with ``index.json``.

    The index holds ``labels`` (value to structure) and ``cases``, each with ``case`` (its
    folder's name), ``annotated``, ``provenance``, ``licence`` and ``label`` (how it was
    labelled). A case folder has ``label.nii.gz`` and ``ct.nii.gz`` or ``dicom/``.

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
    names: tuple[str, ...] = ()
    for index, phantom in enumerate(phantoms):
        home = out / f"ct_{index:03d}"
        names = phantom.annotated
        write_nifti(phantom.volume, home / "ct.nii.gz")
        write_nifti(phantom.labels, home / "label.nii.gz")
        entries.append({"case": home.name, "annotated": list(names), "label": "exact"})
    whole = {"labels": {str(BY_NAME[n].value): n for n in names}, "cases": entries}
    write_whole(out / "index.json", (json.dumps(whole, indent=2) + "\n").encode())


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
    return Case(name, image, label, values, tuple(map(str, annotated)), source)
