"""Scores of label maps, whole volumes at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.labels import values


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 when both are empty."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else 1.0


def mask_of(labels: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    """The voxels of a named mask (a structure or a group) in a label map."""
    return np.isin(labels, values(name))


def dice_by_mask(
    predicted: NDArray[np.uint8], truth: NDArray[np.uint8], names: tuple[str, ...]
) -> dict[str, float]:
    """Dice of every named mask (structures or groups; an organ's mask holds its lesions)."""
    return {n: dice(mask_of(predicted, n), mask_of(truth, n)) for n in names}


def scorable(outputs: tuple[str, ...], annotated: tuple[str, ...]) -> tuple[str, ...]:
    """Masks that a model gives and a case's labels can judge.

    An organ's name stands for the whole organ (``models.labels.GROUPS``), whose lesions lie inside
    its label where they are not annotated themselves.
    """
    return tuple(name for name in outputs if name in annotated)
