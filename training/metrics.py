"""Scores of label maps, whole volumes at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.labels import values


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 when both are empty, 0 when one is."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else 1.0


def volume_error_ml(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> float:
    """The predicted volume minus the true one, in ml; spacing in mm (Z, Y, X)."""
    return _more_voxels(predicted, truth) * math.prod(spacing) / 1000


def relative_volume_difference(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """The predicted volume over the true one, minus 1: below 0 where too little is found.

    0 when both are empty, infinite when only the truth is.
    """
    more, size = _more_voxels(predicted, truth), int(np.count_nonzero(truth))
    if size:
        return more / size
    return math.inf if more else 0.0


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


def _more_voxels(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(predicted)) - int(np.count_nonzero(truth))
