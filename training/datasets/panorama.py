"""PANORAMA (github.com/DIAGNijmegen/panorama_labels): pancreatic cancer, partly drawn by networks.

It holds cases of the Decathlon's pancreas task and of NIH Pancreas-CT under other names; a model
that is tested on those must not learn from this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from imaging.errors import DataError
from imaging.writers.nifti import write_nifti
from training.cases import Case
from training.datasets.layout import folders, mapped_cases, nifti_files
from training.datasets.stored import stored_map
from training.phantoms.scan import Phantom

PARTS = ("images", "panorama_labels*", "batch_*")
# Veins (2), arteries (3) and the common bile duct (6) are no structures of Islet. The tumors are
# ductal adenocarcinomas; the pancreatic duct is a part of the organ.
NAMES: Mapping[int, str] = {1: "pancreas_tumor", 4: "pancreas", 5: "pancreas"}
_LICENCE = "CC BY-NC 4.0"
_LABELS = ("panorama_labels", "panorama_labels-*", "labels")
_IMAGES = ("images", "batch_*", "batch_*/images")
# What people drew goes before what a network drew.
_DRAWN = {
    "manual_labels": "tumors drawn by trained investigators, the rest partly by a network",
    "automatic_labels": "by a network, unreviewed",
}


def marks(folder: Path) -> bool:
    """``panorama_labels/manual_labels`` or ``automatic_labels``."""
    return any((home / drawn).is_dir() for home in folders(folder, _LABELS) for drawn in _DRAWN)


def cases(folder: Path) -> list[Case]:
    """The images there are, named ``100001_00001_0000.nii.gz``, each with its label.

    Images lie in ``images``, in ``batch_*`` or in the root; labels in ``panorama_labels``,
    ``panorama_labels-main`` or ``labels``. Where there is a manual and an automatic label the
    manual one is taken. Labels without an image are left out: the label repository is whole,
    the images come in four parts. ``source`` says for each case how it was labelled.

    Raises:
        DataError: an image without a label.
    """
    found: dict[str, Case] = {}
    places = [(drawn, home / drawn) for drawn in _DRAWN for home in folders(folder, _LABELS)]
    for parent in (*folders(folder, _IMAGES), folder):
        for stem, image in nifti_files(parent, "*_0000"):
            name = stem.removesuffix("_0000")
            drawn, label = _label(places, name)
            source = {"name": "PANORAMA", "licence": _LICENCE, "labels": _DRAWN[drawn]}
            found[name] = mapped_cases([(name, image, label)], NAMES, source)[0]
    return [found[name] for name in sorted(found)]


def write(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms, every second one as labelled automatically; the duct is not drawn."""
    names = {value: name for value, name in NAMES.items() if value != 5}
    for index, phantom in enumerate(phantoms):
        name = f"{100000 + index}_00001"
        drawn = tuple(_DRAWN)[index % 2]
        write_nifti(phantom.volume, out / "images" / f"{name}_0000.nii.gz")
        path = out / "panorama_labels" / drawn / f"{name}.nii.gz"
        write_nifti(stored_map(phantom.labels, names), path)


def _label(places: Sequence[tuple[str, Path]], name: str) -> tuple[str, Path]:
    for drawn, place in places:
        path = place / f"{name}.nii.gz"
        if path.is_file():
            return drawn, path
    raise DataError(
        f"Case {name}: has no label {name}.nii.gz in {' or '.join(_DRAWN)}; update the labels.",
        case=name,
    )
