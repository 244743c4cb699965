"""Phantom hospitals: each scans, labels and ails in its own way, and has a data set on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imaging.errors import BadParameter, DataError
from imaging.files import write_whole
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from training.cases import Case, Loaded
from training.datasets import open_dataset
from training.datasets.layout import SOURCE
from training.lesions import plant
from training.phantoms import make_phantom

# Enough for a short training to learn an organ by, and few enough to be made in seconds. Sites
# hold back every fifth training case to validate on.
TRAIN, TEST = 10, 8
_PLACES = 20
_PARTS = {"train": "Tr", "test": "Ts"}


@dataclass(frozen=True)
class Hospital:
    """How one site's phantoms come about.

    Attributes:
        name: of the site.
        style: of ``training.phantoms.STYLES``, how it scans.
        spacing_mm: of its scans (z, y, x).
        annotated: structures that it labels.
        tumor_mm: range of the diameters of a tumor of the pancreas that every patient has; healthy
            patients where ``None``. Tumors of ordinary size are not learned at the coarse spacing
            of a short training.
        train, test: how many cases.
    """

    name: str
    style: str
    spacing_mm: tuple[float, float, float]
    annotated: tuple[str, ...]
    tumor_mm: tuple[float, float] | None = None
    train: int = TRAIN
    test: int = TEST

    def cases(self, split: str, seed: int) -> Iterator[Loaded]:
        """The cases of a split, each made when it is asked for.

        Args:
            split: ``train`` or ``test``; no patient is in both.
            seed: of the study; other seeds are other patients.

        Raises:
            BadParameter: another split.
            DataError: a pancreas in which no tumor grows.
        """
        if split not in _PARTS:
            raise BadParameter(f"split must be one of {', '.join(_PARTS)}, not {split!r}.")
        count = self.train if split == "train" else self.test
        entropy = [seed, list(_PARTS).index(split), *self.name.encode()]
        for index, own in enumerate(np.random.SeedSequence(entropy).generate_state(count)):
            yield self._case(f"{self.name}-{split}-{index:03d}", int(own))

    def _case(self, name: str, seed: int) -> Loaded:
        made = make_phantom(
            seed, self.style, spacing_mm=self.spacing_mm, structures=self.annotated, tumors=False
        )
        image, labels = made.volume, made.labels
        if self.tumor_mm is not None:
            image, labels = _with_tumor(image, labels, self.tumor_mm, seed)
        return Loaded(name, image, labels, self.annotated)


def write_sites(hospitals: Sequence[Hospital], out: Path, seed: int) -> dict[str, Path]:
    """Write each hospital's data set in nnU-Net's layout, which tells training from test cases.

    A set that is there already is left as it is.

    Args:
        hospitals: of the study.
        out: folder, made where missing; a site's set lies in the folder of its name.
        seed: of the study.

    Returns:
        The folder of each site's set.
    """
    found = {}
    for hospital in hospitals:
        found[hospital.name] = out / hospital.name
        if not (out / hospital.name / "dataset.json").exists():
            _write(hospital, out / hospital.name, seed)
    return found


def held_out(folder: Path) -> list[Case]:
    """The cases of a data set that are for testing alone."""
    return [case for case in open_dataset(folder) if case.split == "test"]


def _with_tumor(
    image: Volume, labels: Volume, diameter_mm: tuple[float, float], seed: int
) -> tuple[Volume, Volume]:
    """The case with a tumor of the pancreas; in another place where none grows in the first."""
    rng = np.random.default_rng([seed, 1])
    for _ in range(_PLACES):
        hu, marked, lesion = plant(
            image.array,
            labels.array,
            image.geometry.spacing,
            "pancreas_tumor",
            rng,
            float(rng.uniform(*diameter_mm)),
        )
        if lesion is not None:
            return image.with_array(hu), labels.with_array(marked)
    raise DataError(f"No tumor grows in the phantom of seed {seed}; choose another seed.")


def _write(hospital: Hospital, folder: Path, seed: int) -> None:
    for split, part in _PARTS.items():
        for case in hospital.cases(split, seed):
            write_nifti(case.image, folder / f"images{part}" / f"{case.name}_0000.nii.gz")
            write_nifti(_numbered(case, hospital), folder / f"labels{part}" / f"{case.name}.nii.gz")
    source = {"name": f"phantoms of {hospital.name}", "licence": "Apache-2.0", "labels": "exact"}
    _write_json(folder / SOURCE, source)
    # Last: a folder with it is whole.
    meta = {
        "name": f"phantoms of {hospital.name}",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{n: i for i, n in enumerate(hospital.annotated, 1)}},
        "numTraining": hospital.train,
        "file_ending": ".nii.gz",
    }
    _write_json(folder / "dataset.json", meta)


def _numbered(case: Loaded, hospital: Hospital) -> Volume:
    """The labels with the values 1, 2, ... as nnU-Net wants them."""
    table = np.zeros(256, np.uint8)
    for value, name in enumerate(hospital.annotated, 1):
        table[BY_NAME[name].value] = value
    return case.labels.with_array(table[case.labels.array])


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
