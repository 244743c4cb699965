"""What a layout is: how to know it, where its root may lie, how to list its cases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from imaging.errors import DataError
from training.cases import Case
from training.datasets.names import structures

# Beside a set in any layout: name, licence and labels of what lies there, in place of the
# published ones. Made sets have it, so that no model claims to have learned from patients.
SOURCE = "islet_source.json"
_NIFTI = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Layout:
    """A layout of folders and files.

    Attributes:
        marks: whether a folder is the root of a set in this layout; looks at names and small
            descriptions, never at voxels.
        cases: lists the labelled cases below a root.
        inside: patterns of folders below a named one that may be the root.
        parts: patterns of names of the layout's own folders, which may be named for the root.
    """

    marks: Callable[[Path], bool]
    cases: Callable[[Path], list[Case]]
    inside: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def root(self, folder: Path) -> Path | None:
        """The root of the set that ``folder`` is, holds or is a part of.

        Raises:
            DataError: the folder holds several.
        """
        if self.marks(folder):
            return folder
        found = [inner for inner in folders(folder, self.inside) if self.marks(inner)]
        if len(found) > 1:
            names = ", ".join(f.relative_to(folder).as_posix() for f in found)
            raise DataError(f"{folder} holds several data sets; name one of {names}.")
        if found:
            return found[0]
        above = folder.absolute().parent
        part = any(fnmatch(folder.name, pattern) for pattern in self.parts)
        return above if part and self.marks(above) else None

    def detect(self, folder: Path) -> bool:
        """Whether ``folder`` is, holds or is a part of a set in this layout."""
        return self.root(folder) is not None

    def read(self, folder: Path) -> list[Case]:
        """The cases of a folder in this layout.

        Raises:
            DataError: another layout, no labelled case, or what does not parse.
        """
        root = self.root(folder)
        if root is None:
            raise DataError(f"{folder} is no data set in this layout; name another folder.")
        cases = self.cases(root)
        if not cases:
            raise DataError(f"{root} lists no case with a label; complete the download.")
        if not (root / SOURCE).is_file():
            return cases
        try:
            stated = json.loads((root / SOURCE).read_text(encoding="utf-8"))
            source = {str(key): str(value) for key, value in stated.items()}
        except (ValueError, AttributeError) as error:
            raise DataError(f"{root.name}/{SOURCE} does not parse ({error!r}).") from error
        return [replace(case, source=source) for case in cases]


def description(folder: Path) -> dict[str, Any]:
    """What ``dataset.json`` says, or nothing where there is none that parses."""
    try:
        found = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def mapped_cases(
    pairs: Iterable[tuple[str, Path, Path]],
    names: Mapping[int, str],
    source: Mapping[str, str],
    title: str = "",
    split: str = "train",
) -> list[Case]:
    """Cases with one label map each, all with the same values.

    Args:
        pairs: name, CT and label map of each case.
        names, title: label value to published name, as in :func:`names.structures`.
        source, split: of every case.

    Raises:
        DataError: no name means a structure.
    """
    values = structures(names, title)
    if not values:
        raise DataError(
            f"{source['name']}: none of its labels {sorted(names.values())} is a structure of "
            "Islet; name another data set."
        )
    annotated = tuple(dict.fromkeys(values.values()))
    cases = []
    for name, image, label in pairs:
        cases.append(Case(name, image, label, values, annotated, source, split=split))
    return cases


def folders(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The folders below a folder that match, pattern by pattern and in order of name."""
    found = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
    return [path for path in found if path.is_dir()]


def nifti_files(folder: Path, pattern: str = "*") -> Iterator[tuple[str, Path]]:
    """Stem and path of the NIfTI files in a folder whose stems match, in order of name."""
    for path in sorted(folder.glob(f"{pattern}.nii*")):
        stem = stem_of(path.name)
        if stem != path.name and not path.name.startswith("."):
            yield stem, path


def stem_of(name: str) -> str:
    """A NIfTI file's name without folder and ending."""
    plain = Path(name).name
    ending = next((e for e in _NIFTI if plain.endswith(e)), "")
    return plain.removesuffix(ending)
