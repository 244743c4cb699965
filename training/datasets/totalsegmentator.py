"""TotalSegmentator (Wasserthal et al., Radiology: AI 2023): one file of 0 and 1 for each class."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from imaging.errors import DataError
from imaging.files import write_whole
from imaging.writers.nifti import write_nifti
from training.cases import Case
from training.datasets.stored import divided, mask_of
from training.phantoms.scan import Phantom

INSIDE = ("Totalsegmentator_dataset*",)
# The classes that together are a structure, right before left and from top to bottom.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "pancreas": ("pancreas",),
    "kidney": ("kidney_right", "kidney_left"),
    "kidney_cyst": ("kidney_cyst_right", "kidney_cyst_left"),
    "liver": ("liver",),
    "spleen": ("spleen",),
    "gallbladder": ("gallbladder",),
    "stomach": ("stomach",),
    "duodenum": ("duodenum",),
    "esophagus": ("esophagus",),
    "colon": ("colon",),
    "lung": (
        "lung_upper_lobe_right",
        "lung_middle_lobe_right",
        "lung_lower_lobe_right",
        "lung_upper_lobe_left",
        "lung_lower_lobe_left",
    ),
}
# The first version has no cysts.
_OPTIONAL = ("kidney_cyst",)
SOURCE = {
    "name": "TotalSegmentator",
    "licence": "CC BY 4.0 (version 2.0.1)",
    "labels": "networks' proposals corrected by physicians where they found faults",
}
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def marks(folder: Path) -> bool:
    """Folders like ``s0001/segmentations``."""
    return any(folder.glob("s[0-9]*/segmentations"))


def cases(folder: Path) -> list[Case]:
    """The cases ``s0001/ct.nii.gz``, with the split that ``meta.csv`` states.

    Without ``meta.csv`` all are for training. Kidney cysts are annotated where their files are
    there (version 2).

    Raises:
        DataError: ``meta.csv`` does not parse or lacks a case.
    """
    splits = _read_splits(folder / "meta.csv")
    found = []
    for home in sorted(path.parent for path in folder.glob("s[0-9]*/segmentations")):
        name = home.name
        if splits and name not in splits:
            raise DataError(f"Case {name}: meta.csv does not list it; complete it.", case=name)
        masks = {
            structure: tuple(home / "segmentations" / f"{c}.nii.gz" for c in classes)
            for structure, classes in CLASSES.items()
        }
        for structure in _OPTIONAL:
            if not any(path.exists() for path in masks[structure]):
                del masks[structure]
        split = splits.get(name, "train")
        found.append(Case(name, home / "ct.nii.gz", None, {}, tuple(masks), SOURCE, masks, split))
    return found


def write(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms with every third one for validation and every fifth one for the test."""
    lines = ["image_id;age;gender;institute;study_type;split"]
    for index, phantom in enumerate(phantoms):
        home = out / f"s{index:04d}"
        write_nifti(phantom.volume, home / "ct.nii.gz")
        for structure, classes in CLASSES.items():
            mask = mask_of(phantom.labels, structure)
            parts = divided(mask, phantom.labels.geometry, classes)
            for name, part in zip(classes, parts, strict=True):
                labels = phantom.labels.with_array(part.astype(np.uint8))
                write_nifti(labels, home / "segmentations" / f"{name}.nii.gz")
        split = "test" if index % 5 == 4 else "val" if index % 3 == 2 else "train"
        lines.append(f"{home.name};;;phantom;ct abdomen;{split}")
    # With a byte order mark, as published.
    write_whole(out / "meta.csv", ("\n".join(lines) + "\n").encode("utf-8-sig"))


def _read_splits(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig").splitlines()
        return {
            row["image_id"]: _SPLITS[row["split"]] for row in csv.DictReader(text, delimiter=";")
        }
    except (ValueError, KeyError) as error:
        raise DataError(
            f"meta.csv of {path.parent.name} does not parse ({error!r}); it needs the columns "
            f"image_id and split ({', '.join(_SPLITS)}), separated by semicolons."
        ) from error
