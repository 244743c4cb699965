"""A training's state on disk: whole or not at all, and never a pickle of code."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from imaging.errors import DataError
from imaging.files import whole_file

LAST, BEST = "last.pt", "best.pt"


@dataclass(frozen=True)
class Checkpoint:
    """Everything a training needs to go on as if it had not stopped.

    Attributes:
        recipe: canonical JSON of the recipe.
        step: steps done.
        network, optimizer, schedule: state dictionaries.
        best: best validation loss so far and the epoch it was reached in.
        history: one entry an epoch.
        average: state dictionary of the weights' mean; empty before the first is taken in.
    """

    recipe: str
    step: int
    network: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    best: tuple[float, int]
    history: list[dict[str, Any]] = field(default_factory=list)
    average: dict[str, Any] = field(default_factory=dict)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; the file under ``path`` is replaced in one step."""
    with whole_file(path, durable=True) as file:
        torch.save(dict(vars(checkpoint)), file)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; only tensors and plain values are unpickled.

    Raises:
        DataError: missing, cut short, or holding anything else.
    """
    try:
        return Checkpoint(**read(path))
    except TypeError as error:
        raise DataError(
            f"{path} is no checkpoint of this version ({error}); train again."
        ) from error


def read(path: Path) -> dict[str, Any]:
    """Read what ``torch.save`` wrote; only tensors and plain values are unpickled.

    Raises:
        DataError: missing, cut short, damaged, or holding anything else.
    """
    try:
        # Torch takes flipped bits for weights; the archive has a checksum of each tensor.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise DataError(f"{path} is damaged at {damaged}; restore it or train again.")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is no readable checkpoint ({error}); train again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no checkpoint; name one.")
    return found
