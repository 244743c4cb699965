"""What a DICOM output says of a label map: its segments, and the algorithm that found them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter
from imaging.volume import Volume

LABEL_VALUES = 256
# A long string (LO) of DICOM: 64 characters, and a backslash would end it.
_LONGEST = 64

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Code:
    """A coded concept: its value, the scheme that defines it ("SCT", "DCM"), what it means."""

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        for word in (self.value, self.scheme, self.meaning):
            _check_text("a code", word)


@dataclass(frozen=True)
class Segment:
    """One thing found.

    Attributes:
        name: stable name, unique among the segments of an output.
        label: the name that people read.
        values: label values whose union it is; an organ holds its lesions.
        value: its own label value, one of them.
        kind: what it is (segmented property type).
        category: what sort of thing that is (segmented property category).
        anatomy: for a lesion, where it grows; None for an organ.
        colour: sRGB 0..255.
    """

    name: str
    label: str
    values: tuple[int, ...]
    value: int
    kind: Code
    category: Code
    anatomy: Code | None
    colour: tuple[int, int, int]

    def __post_init__(self) -> None:
        _check_text("a segment's name", self.name)
        _check_text("a segment's label", self.label)
        if self.value not in self.values or not all(0 < v < LABEL_VALUES for v in self.values):
            raise BadParameter(
                f"Segment {self.name!r} has value {self.value} among {self.values}; its own value "
                f"must be one of them, and all from 1 to {LABEL_VALUES - 1}."
            )
        if len(self.colour) != 3 or not all(0 <= c < 256 for c in self.colour):
            raise BadParameter(f"The colour {self.colour} of {self.name!r} must be sRGB, 0 to 255.")

    @property
    def table(self) -> NDArray[np.bool_]:
        """For each of the 256 label values, whether it belongs to the segment."""
        return np.isin(np.arange(LABEL_VALUES), self.values)


@dataclass(frozen=True)
class Algorithm:
    """Who made a segmentation; goes into the equipment and the algorithm identification.

    Attributes:
        name: of the model.
        version: of the model.
        manufacturer: who answers for the software.
        description: one sentence for people; may be empty.
        sha256: of the model's file; may be empty.
    """

    name: str
    version: str
    manufacturer: str = "Islet"
    description: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        for what in ("name", "version", "manufacturer"):
            _check_text(f"an algorithm's {what}", getattr(self, what))


def check_segments(segments: Sequence[Segment]) -> None:
    """Refuse none at all, and two of one name or of one value.

    Raises:
        BadParameter: says which.
    """
    if not segments:
        raise BadParameter("A DICOM output needs at least one segment; ask for a structure.")
    for what in ("name", "value"):
        given = [getattr(segment, what) for segment in segments]
        if len(set(given)) < len(given):
            raise BadParameter(f"Two segments have the same {what} among {given}; give each once.")


def voxel_counts(labels: Volume) -> Counts:
    """Voxels of each label value in each slice, (Z, 256)."""
    return np.stack(
        [np.bincount(plane.ravel(), minlength=LABEL_VALUES) for plane in labels.array]
    ).astype(np.int64)


def _check_text(what: str, text: str) -> None:
    if not 0 < len(text) <= _LONGEST or "\\" in text or not text.isprintable():
        raise BadParameter(
            f"{text[:_LONGEST]!r} cannot be {what} in DICOM; give 1 to {_LONGEST} printable "
            "characters without a backslash."
        )
