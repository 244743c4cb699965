"""BTCV, "Beyond the Cranial Vault" (synapse.org, syn3193805): 13 abdominal organs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from imaging.writers.nifti import write_nifti
from training.cases import Case
from training.datasets.layout import mapped_cases, nifti_files
from training.datasets.stored import stored_map
from training.phantoms.scan import Phantom

PARTS = ("img", "label")
INSIDE = ("Training", "RawData/Training", "Abdomen/RawData/Training")
NAMES: Mapping[int, str] = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "portal vein and splenic vein",
    11: "pancreas",
    12: "right adrenal gland",
    13: "left adrenal gland",
}
SOURCE = {
    "name": "BTCV abdomen",
    "licence": "terms of use of synapse.org, syn3193805",
    "labels": "manual, by trained raters, reviewed by a radiologist",
}


def marks(folder: Path) -> bool:
    """``label/label0001.nii.gz``."""
    return any((folder / "label").glob("label????.nii.gz"))


def cases(folder: Path) -> list[Case]:
    """The pairs ``img/img0001.nii.gz`` and ``label/label0001.nii.gz`` of ``RawData/Training``.

    Raises:
        DataError: an image is not there.
    """
    labels = nifti_files(folder / "label", "label????")
    numbers = ((stem.removeprefix("label"), path) for stem, path in labels)
    pairs = (
        (f"btcv_{number}", folder / "img" / f"img{number}.nii.gz", path) for number, path in numbers
    )
    return mapped_cases(pairs, NAMES, SOURCE)


def write(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms into ``out/RawData/Training``."""
    home = out / "RawData" / "Training"
    for number, phantom in enumerate(phantoms, 1):
        write_nifti(phantom.volume, home / "img" / f"img{number:04d}.nii.gz")
        labels = stored_map(phantom.labels, NAMES)
        write_nifti(labels, home / "label" / f"label{number:04d}.nii.gz")
