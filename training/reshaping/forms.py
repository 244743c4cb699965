"""Real organs without their images: the form of each, and how large it is.

The libraries are those of :mod:`training.planting.shapes`: whole kidneys and pancreases, in label
maps that were cropped around them. People outlined the kidneys; PANORAMA's pancreases are mostly
a program's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imaging.errors import DataError
from imaging.read import read_volume
from imaging.volume import to_canonical
from models.postprocess import connected_parts
from training.planting.shapes import SOURCES, Part, part_of

Organ = Literal["pancreas", "left kidney", "right kidney"]
ORGANS: tuple[Organ, ...] = get_args(Organ)
_FOLDER: dict[Organ, str] = {
    "pancreas": "panorama",
    "left kidney": "kits23",
    "right kidney": "kits23",
}
# What is much smaller or larger is an organ cut off, shrunken or swollen (ml; by eye).
_USUAL_ML: dict[Organ, tuple[float, float]] = {
    "pancreas": (30.0, 150.0),
    "left kidney": (60.0, 350.0),
    "right kidney": (60.0, 350.0),
}
# An organ with more of its volume in lesions has their form.
_LESIONS = 0.2


@dataclass(frozen=True, eq=False)
class Form:
    """One real organ.

    Attributes:
        name: folder, case and organ, such as ``kits23/case_00002/left kidney``.
        points: (n, 3) mm from its centre of mass along (S, P, L), a voxel each.
        spacing: (z, y, x) mm of the voxels.
    """

    name: str
    points: NDArray[np.float64]
    spacing: tuple[float, float, float]

    @property
    def volume_ml(self) -> float:
        """Of the organ with its lesions."""
        return len(self.points) * float(np.prod(self.spacing)) / 1000

    def within(self, low: float, high: float) -> Form:
        """The form, grown or shrunken where it is smaller or larger than so many ml."""
        factor = (float(np.clip(self.volume_ml, low, high)) / self.volume_ml) ** (1 / 3)
        z, y, x = (side * factor for side in self.spacing)
        return Form(self.name, self.points * factor, (z, y, x))


@dataclass(frozen=True)
class Forms:
    """A library of real organs, read as they are drawn.

    Attributes:
        part: ``train`` or ``held-out``; no patient is in both.
        files: the label maps of each folder.
    """

    part: Part
    files: dict[str, tuple[Path, ...]]

    @classmethod
    def open(cls, folder: Path, part: Part = "train") -> Forms:
        """The library of a folder with ``kits23/``, ``panorama/`` or both.

        Raises:
            DataError: a folder without label maps of that part.
        """
        files = {
            name: tuple(
                path
                for path in sorted((folder / name).glob("*.nii.gz"))
                if part_of(_case(path)) == part
            )
            for name in SOURCES
        }
        if not any(files.values()):
            raise DataError(
                f"{folder} holds no {part} shapes; name a folder with {' or '.join(SOURCES)} of "
                ".nii.gz label maps."
            )
        return cls(part, files)

    def draw(self, organ: Organ, rng: np.random.Generator) -> Form | None:
        """A random healthy organ, whole and of usual size; ``None`` where there is none.

        Raises:
            DataError: a file that is no label map.
        """
        files = self.files[_FOLDER[organ]]
        for index in rng.permutation(len(files)):
            form = _read(files[index], organ)
            if form is not None:
                return form
        return None


def _case(path: Path) -> str:
    return f"{path.parent.name}/{path.name.removesuffix('.nii.gz')}"


def _read(path: Path, organ: Organ) -> Form | None:
    source = SOURCES[path.parent.name]
    volume = to_canonical(read_volume(path))
    if not np.issubdtype(volume.array.dtype, np.integer):
        raise DataError(f"{path.name} holds {volume.array.dtype}, no label map.", file=path.name)
    lesions = np.isin(volume.array, [value for value, _ in source.lesions])
    whole = lesions | np.isin(volume.array, source.organ)
    mask = _side(whole, organ) if source.paired else whole
    if mask is None or not mask.any() or lesions[mask].mean() > _LESIONS or _cut(mask):
        return None
    points = np.argwhere(mask) * np.asarray(volume.geometry.spacing)
    form = Form(f"{_case(path)}/{organ}", points - points.mean(0), volume.geometry.spacing)
    low, high = _USUAL_ML[organ]
    return form if low <= form.volume_ml <= high else None


def _side(whole: NDArray[np.bool_], organ: Organ) -> NDArray[np.bool_] | None:
    """The left or the right one of the two largest parts (Z, Y, X); axes run to (S, P, L)."""
    pair = sorted(two_largest(whole), key=lambda part: float(np.argwhere(part)[:, 2].mean()))
    return pair[organ == "left kidney"] if len(pair) == 2 else None


def two_largest(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """The largest connected part of a mask (Z, Y, X), then the one after it, where they are."""
    parts = connected_parts(mask)
    sizes = np.bincount(parts.ravel())[1:]
    for index in np.argsort(sizes)[::-1][:2]:
        yield parts == index + 1


def _cut(mask: NDArray[np.bool_]) -> bool:
    """Whether an organ reaches an edge of what was cropped."""
    return any(bool(mask.take((0, -1), axis).any()) for axis in range(3))
