"""Medical Segmentation Decathlon: ``dataset.json`` lists pairs of images and labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging.errors import DataError
from training.cases import Case
from training.datasets import amos, nnunet
from training.datasets.layout import stem_of
from training.datasets.names import structures
from training.datasets.stored import annotated, stored_map
from training.phantoms.scan import Phantom
from training.phantoms.sets import write_decathlon

PARTS = ("imagesTr", "labelsTr", "imagesTs")
INSIDE = ("Task*",)


@dataclass(frozen=True)
class Task:
    """A task of the Decathlon: the name and the labels in its ``dataset.json``."""

    name: str
    labels: Mapping[int, str]

    @property
    def structures(self) -> tuple[str, ...]:
        """What the task annotates."""
        return annotated(self.labels, self.name)


# The abdominal tasks as their dataset.json names them. Lung and colon have no label for the organ;
# the liver around the hepatic vessels has none either.
TASKS: Mapping[str, Task] = {
    "liver": Task("Liver", {1: "liver", 2: "cancer"}),
    "lung": Task("Lung", {1: "cancer"}),
    "pancreas": Task("Pancreas", {1: "pancreas", 2: "cancer"}),
    "hepatic_vessel": Task("HepaticVessel", {1: "Vessel", 2: "Tumour"}),
    "spleen": Task("Spleen", {1: "Spleen"}),
    "colon": Task("Colon", {1: "colon cancer primaries"}),
}


def marks(folder: Path) -> bool:
    """A ``dataset.json`` that is neither nnU-Net's nor that of AMOS, which mixes MRI in."""
    described = (folder / "dataset.json").is_file()
    return described and not nnunet.marks(folder) and not amos.marks(folder)


def cases(folder: Path) -> list[Case]:
    """The pairs under ``training`` in ``dataset.json``, e.g. of ``Task07_Pancreas``.

    Labels whose names are no structure of Islet (and no synonym of one) count as unlabelled.
    ``islet_annotated`` may list the annotated structures where they are more than those with a
    label value. An image may have nnU-Net's suffix ``_0000`` on disk, as its first version kept
    it.

    Raises:
        DataError: ``dataset.json`` does not parse, lists another modality than CT, names no
            structure, or lists files that are not there.
    """
    try:
        meta = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        labels = {int(value): str(name) for value, name in meta["labels"].items()}
        title = str(meta.get("name", folder.name))
        values = structures(labels, title)
        known = tuple(dict.fromkeys((*values.values(), *meta.get("islet_annotated", ()))))
        pairs = sorted((stem_of(p["label"]), p["image"], p["label"]) for p in meta["training"])
        modality = str(meta.get("modality", {}).get("0", "CT"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder.name}/dataset.json is not in the Decathlon's form ({error!r})."
        ) from error
    if modality.upper() != "CT" or not known:
        raise DataError(
            f"{folder.name}/dataset.json has modality {modality!r} and labels "
            f"{sorted(labels.values())}; Islet learns CT with structures of its own list."
        )
    source = {
        "name": title,
        "licence": str(meta.get("licence", meta.get("license", "not stated"))),
        "labels": str(meta.get("islet_label_kind", "as published")),
    }
    return [
        Case(name, _image(folder / image), folder / label, values, known, source)
        for name, image, label in pairs
    ]


def write(task: Task, out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms as a task: its file names, its label values, its ``dataset.json``."""
    meta: dict[str, Any] = {
        "name": task.name,
        "description": "Procedural phantoms in this task's layout",
        "licence": "Apache-2.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(v): name for v, name in task.labels.items()}},
        "numTest": 0,
        "test": [],
        "islet_label_kind": "exact",
    }
    made = (
        (f"{task.name.lower()}_{i:03d}", p.volume, stored_map(p.labels, task.labels, task.name))
        for i, p in enumerate(phantoms, 1)
    )
    write_decathlon(out, made, meta)


def _image(path: Path) -> Path:
    suffixed = path.with_name(path.name.replace(".nii", "_0000.nii"))
    return suffixed if not path.exists() and suffixed.exists() else path
