"""AMOS22 (Ji et al., arXiv:2206.08023): 15 abdominal organs, CT and MRI."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from imaging.files import write_whole
from imaging.writers.nifti import write_nifti
from training.cases import Case
from training.datasets.layout import mapped_cases, nifti_files
from training.datasets.stored import stored_map
from training.phantoms.scan import Phantom

PARTS = ("imagesTr", "labelsTr", "imagesVa", "labelsVa", "imagesTs")
INSIDE = ("amos22", "amos")
# As in its dataset.json, spelling included.
NAMES: Mapping[int, str] = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gall bladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "arota",
    9: "postcava",
    10: "pancreas",
    11: "right adrenal gland",
    12: "left adrenal gland",
    13: "duodenum",
    14: "bladder",
    15: "prostate/uterus",
}
SOURCE = {
    "name": "AMOS22",
    "licence": "see zenodo.org/records/7262581",
    "labels": "networks' proposals corrected by radiologists",
}
# Its readme: "id numbers less than 500 belong to CT data, otherwise they belong to MRI data".
_FIRST_MRI = 500
_SPLITS = (("Tr", "train"), ("Va", "validation"))


def marks(folder: Path) -> bool:
    """Images named ``amos_0001.nii.gz`` in ``imagesTr`` or ``imagesVa``."""
    return any(any((folder / f"images{p}").glob("amos_????.nii.gz")) for p, _ in _SPLITS)


def cases(folder: Path) -> list[Case]:
    """The labelled CTs; ``Va`` is the validation split. MRI, from number 500 on, is left out.

    Raises:
        DataError: an image is not there.
    """
    found = []
    for part, split in _SPLITS:
        found += mapped_cases(_pairs(folder, part), NAMES, SOURCE, split=split)
    return found


def write(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms, every third one into the validation split."""
    lists: dict[str, list[dict[str, str]]] = {"Tr": [], "Va": []}
    for number, phantom in enumerate(phantoms, 1):
        part = "Tr" if number % 3 else "Va"
        name = f"amos_{number:04d}.nii.gz"
        pair = {"image": f"./images{part}/{name}", "label": f"./labels{part}/{name}"}
        write_nifti(phantom.volume, out / pair["image"])
        write_nifti(stored_map(phantom.labels, NAMES), out / pair["label"])
        lists[part].append(pair)
    meta = {
        "name": "AMOS",
        "licence": "Apache-2.0",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(v): name for v, name in NAMES.items()}},
        "numTraining": len(lists["Tr"]),
        "training": lists["Tr"],
        "validation": lists["Va"],
        "test": [],
    }
    write_whole(out / "dataset.json", (json.dumps(meta, indent=2) + "\n").encode())


def _pairs(folder: Path, part: str) -> Iterator[tuple[str, Path, Path]]:
    for name, label in nifti_files(folder / f"labels{part}", "amos_????"):
        if int(name.removeprefix("amos_")) < _FIRST_MRI:
            yield name, folder / f"images{part}" / label.name, label
