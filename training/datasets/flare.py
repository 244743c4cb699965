"""FLARE21 (4 organs) and FLARE22 (13 organs): the labelled part of two MICCAI challenges.

FLARE22's 50 CTs are from the Decathlon's pancreas task; a model needs one of the two only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imaging.writers.nifti import write_nifti
from training.cases import Case
from training.datasets.layout import mapped_cases, nifti_files
from training.datasets.stored import stored_map
from training.phantoms.scan import Phantom

PARTS = ("images", "labels", "TrainingImg", "TrainingMask")
INSIDE = ("FLARE22Train", "FLARE22Train/FLARE22Train", "FLARE21")


@dataclass(frozen=True)
class Year:
    """One challenge: its folders, the pattern of its cases' names, its labels."""

    images: str
    labels: str
    pattern: str
    names: Mapping[int, str]
    source: Mapping[str, str]


YEAR_2021 = Year(
    "TrainingImg",
    "TrainingMask",
    "train_???",
    {1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"},
    {
        "name": "FLARE21",
        "licence": "terms of use of flare.grand-challenge.org",
        "labels": "networks' proposals corrected by radiologists",
    },
)
YEAR_2022 = Year(
    "images",
    "labels",
    "FLARE22_Tr_????",
    {
        1: "liver",
        2: "right kidney",
        3: "spleen",
        4: "pancreas",
        5: "aorta",
        6: "inferior vena cava",
        7: "right adrenal gland",
        8: "left adrenal gland",
        9: "gallbladder",
        10: "esophagus",
        11: "stomach",
        12: "duodenum",
        13: "left kidney",
    },
    {
        "name": "FLARE22",
        "licence": "terms of use of flare22.grand-challenge.org",
        "labels": "networks' proposals corrected by radiologists",
    },
)
_YEARS = (YEAR_2021, YEAR_2022)


def marks(folder: Path) -> bool:
    """``labels/FLARE22_Tr_0001.nii.gz`` or ``TrainingMask/train_000.nii.gz``."""
    return any(any(nifti_files(folder / y.labels, y.pattern)) for y in _YEARS)


def cases(folder: Path) -> list[Case]:
    """The labelled cases; an image is named as its label with ``_0000`` before the ending.

    Raises:
        DataError: an image is not there.
    """
    found = []
    for year in _YEARS:
        labels = list(nifti_files(folder / year.labels, year.pattern))
        images = folder / year.images
        pairs = ((name, images / f"{name}_0000.nii.gz", path) for name, path in labels)
        found += mapped_cases(pairs, year.names, year.source)
    return found


def write(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms as FLARE22."""
    for number, phantom in enumerate(phantoms, 1):
        name = f"FLARE22_Tr_{number:04d}"
        write_nifti(phantom.volume, out / "images" / f"{name}_0000.nii.gz")
        labels = stored_map(phantom.labels, YEAR_2022.names)
        write_nifti(labels, out / "labels" / f"{name}.nii.gz")
