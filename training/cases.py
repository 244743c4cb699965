"""A case: one CT with the labels of the structures its data set annotates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.errors import DataError, IsletError
from imaging.geometry import Geometry
from imaging.read import read_volume
from imaging.volume import Volume, from_canonical, to_canonical
from models.labels import BY_NAME, STRUCTURES, UNKNOWN_NAME, label_value

SPLITS = ("train", "validation", "test")


# The order in which masks are laid over each other: what lies within another structure comes after
# it, and tumors over cysts, as KiTS draws them.
LAYERS = tuple(sorted(STRUCTURES, key=lambda s: (s.parent is not None, "tumor" in s.name)))


@dataclass(frozen=True)
class Case:
    """Where one CT and its labels lie: one label map, or binary masks, one file or more each.

    Attributes:
        name: unique within its data set.
        image: anything ``imaging.read.read_volume`` takes.
        label: a label map on the image's grid; ``None`` where there are masks instead.
        values: what the values (1 to 255) in ``label`` mean, a structure or ``unknown``; others
            are unlabelled.
        annotated: structures that this data set labels wherever they are; every other structure
            is unknown in its unlabelled voxels, not absent.
        source: data set, licence and how it was labelled, for the model's provenance.
        masks: for a structure, files of 0 and 1 on the image's grid whose union it is.
        split: ``train``, ``validation`` or ``test``, as the data set publishes it.
        patient: whom the CT shows, where other cases may show the same one: cases of a patient are
            never divided between what is learned from and what is judged by. The case alone where
            empty.

    Raises:
        DataError: a name that is no structure, a value or split out of range, not exactly one of
            label and masks.
    """

    name: str
    image: Path
    label: Path | None
    values: Mapping[int, str]
    annotated: tuple[str, ...]
    source: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    split: str = "train"
    patient: str = ""

    def __post_init__(self) -> None:
        names = {*self.annotated, *self.masks, *(set(self.values.values()) - {UNKNOWN_NAME})}
        unknown = sorted(names - set(BY_NAME))
        outside = sorted(value for value in self.values if not 1 <= value <= 255)
        faults = {
            f"{unknown} are no structures of Islet; map them in the data set's reader.": unknown,
            f"label values must be from 1 to 255 (0 is the background), not {outside}.": outside,
            f"split must be one of {', '.join(SPLITS)}, not {self.split!r}.": self.split
            not in SPLITS,
            "needs either a label map or masks, not both or neither.": (self.label is None)
            != bool(self.masks),
        }
        for fault, found in faults.items():
            if found:
                raise DataError(f"Case {self.name}: {fault}", case=self.name)

    @property
    def group(self) -> str:
        """What the case is never divided from: its patient, or itself."""
        return self.patient or self.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The CT (a file or a folder of DICOM) and every label file."""
        labels = () if self.label is None else (self.label,)
        return (self.image, *labels, *(path for paths in self.masks.values() for path in paths))


@dataclass(frozen=True, eq=False)
class Loaded:
    """A case in memory: CT and label map (values of ``models.labels``) on one grid.

    ``group`` is that of the :class:`Case` it was read from.
    """

    name: str
    image: Volume
    labels: Volume
    annotated: tuple[str, ...]
    group: str = ""


def load(case: Case) -> Loaded:
    """Read a case and check that its labels fit its CT.

    Labels may be stored in another order of axes than the CT: their own header says which voxel
    is where, and they are put in the CT's order. Nothing is interpolated or shifted. Masks are
    laid over each other in the order of ``LAYERS``; later ones win.

    Raises:
        DataError: names the case and the cause: unreadable, another grid, values not in the list.
    """
    try:
        image = read_volume(case.image)
        if case.label is None:
            values = _united(case, image.geometry)
        else:
            values = _canonical(_on_grid(case, case.label, image.geometry), case)
    except DataError:
        raise
    except (IsletError, OSError) as error:
        cause = error.message if isinstance(error, IsletError) else error
        raise DataError(f"Case {case.name}: {cause}", case=case.name) from error
    return Loaded(case.name, image, Volume(values, image.geometry), case.annotated, case.group)


def _on_grid(case: Case, path: Path, grid: Geometry) -> NDArray[np.generic]:
    """The voxels (Z, Y, X) of a label file in the order of the CT's."""
    stored = read_volume(path)
    labels = to_canonical(stored)
    wanted = to_canonical(Volume(np.empty(grid.shape, np.bool_), grid)).geometry
    if not wanted.close_to(labels.geometry, 0.1 * min(grid.spacing)):
        raise DataError(
            f"Case {case.name}: the CT is {grid.shape} at {grid.origin} mm, its labels "
            f"{path.name} {stored.geometry.shape} at {stored.geometry.origin} mm; store both on "
            "one grid.",
            case=case.name,
            file=path.name,
        )
    return np.ascontiguousarray(from_canonical(labels, grid).array)


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
        table[value] = label_value(name)
    return table[stored.astype(np.uint8)]


def _united(case: Case, grid: Geometry) -> NDArray[np.uint8]:
    """Islet's values from the masks of a case."""
    labels = np.zeros(grid.shape, np.uint8)
    for structure in LAYERS:
        for path in case.masks.get(structure.name, ()):
            stored = _on_grid(case, path, grid)
            present = np.unique(stored)
            if not np.isin(present, (0, 1)).all():
                raise DataError(
                    f"Case {case.name}: the mask {path.name} holds values from {present.min()} to "
                    f"{present.max()}; a mask holds 0 and 1 alone.",
                    case=case.name,
                    file=path.name,
                )
            labels[stored == 1] = structure.value
    return labels
