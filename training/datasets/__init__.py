"""Data set layouts by name. To add one: a file here and an entry in ``DATASETS``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imaging.errors import DataError
from training.cases import Case
from training.datasets import ct_index, decathlon


class Reader(Protocol):
    """Lists the training cases of a folder in one layout."""

    def __call__(self, folder: Path) -> list[Case]: ...


@dataclass(frozen=True)
class Layout:
    """A layout: the file that marks it and its reader."""

    marker: str
    read: Reader


DATASETS: Mapping[str, Layout] = {
    "decathlon": Layout("dataset.json", decathlon.read),
    "ct_index": Layout("index.json", ct_index.read),
}


def open_dataset(folder: Path) -> list[Case]:
    """The cases of a folder, whichever known layout it has.

    Raises:
        DataError: no known layout, or one that does not parse.
    """
    for layout in DATASETS.values():
        if (folder / layout.marker).is_file():
            cases = layout.read(folder)
            if not cases:
                raise DataError(f"{folder.name}/{layout.marker} lists no case with a label.")
            return cases
    markers = ", ".join(layout.marker for layout in DATASETS.values())
    raise DataError(f"{folder} is no data set: it has none of {markers}.")
