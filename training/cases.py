"""A case: one CT with the labels of the structures its data set annotates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.errors import DataError, IsletError
from imaging.read import read_volume
from imaging.volume import Volume
from models.labels import BY_NAME


@dataclass(frozen=True)
class Case:
    """Where one CT and its labels lie.

    Attributes:
        name: unique within its data set.
        image: anything ``imaging.read.read_volume`` takes.
        label: a label map on the image's grid.
        values: what the values (1 to 255) in ``label`` mean; others are unlabelled.
        annotated: structures that this data set labels wherever they are; every other structure
            is unknown in its unlabelled voxels, not absent.
        source: data set, licence and how it was labelled, for the model's provenance.
    """

    name: str
    image: Path
    label: Path
    values: Mapping[int, str]
    annotated: tuple[str, ...]
    source: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = (set(self.annotated) | set(self.values.values())) - set(BY_NAME)
        if unknown:
            raise DataError(
                f"Case {self.name}: {sorted(unknown)} are no structures of Islet; map them in the "
                "data set's reader.",
                case=self.name,
            )
        outside = sorted(value for value in self.values if not 1 <= value <= 255)
        if outside:
            raise DataError(
                f"Case {self.name}: label values must be from 1 to 255 (0 is the background), not "
                f"{outside}.",
                case=self.name,
            )


@dataclass(frozen=True, eq=False)
class Loaded:
    """A case in memory: CT and label map (values of ``models.labels``) on one grid."""

    name: str
    image: Volume
    labels: Volume
    annotated: tuple[str, ...]


def load(case: Case) -> Loaded:
    """Read a case and check that its labels fit its CT.

    Raises:
        DataError: names the case and the cause: unreadable, another grid, values not in the list.
    """
    try:
        image = read_volume(case.image)
        labels = read_volume(case.label)
    except IsletError as error:
        raise DataError(f"Case {case.name}: {error.message}", case=case.name) from error
    if not image.geometry.close_to(labels.geometry, 0.1 * min(image.geometry.spacing)):
        raise DataError(
            f"Case {case.name}: the CT is {image.geometry.shape} at {image.geometry.origin} mm, "
            f"its labels {labels.geometry.shape} at {labels.geometry.origin} mm; store both on "
            "one grid.",
            case=case.name,
        )
    values = _canonical(labels.array, case)
    return Loaded(case.name, image, Volume(values, image.geometry), case.annotated)


def _canonical(stored: NDArray[np.generic], case: Case) -> NDArray[np.uint8]:
    """The data set's values as Islet's."""
    present = np.unique(stored)
    if present.min() < 0 or present.max() > 255 or not np.all(np.mod(present, 1) == 0):
        raise DataError(
            f"Case {case.name}: labels must be whole numbers from 0 to 255, not "
            f"{present.min()} to {present.max()}.",
            case=case.name,
        )
    table = np.zeros(256, np.uint8)
    for value, name in case.values.items():
        table[value] = BY_NAME[name].value
    return table[stored.astype(np.uint8)]
