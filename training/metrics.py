"""Scores of label maps, whole volumes at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.labels import UNKNOWN, values


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 when both are empty, 0 when one is."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else 1.0


def volume_error_ml(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> float:
    """The predicted volume minus the true one, in ml; spacing in mm (Z, Y, X)."""
    more = int(np.count_nonzero(predicted)) - int(np.count_nonzero(truth))
    return more * math.prod(spacing) / 1000


def mask_of(labels: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    """The voxels of a named mask (a structure or a group) in a label map."""
    return np.isin(labels, values(name))


def judgeable(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A predicted label map without what lies where nobody knows the truth: it is neither right nor
    wrong. The same array where all is known."""
    unknown = truth == UNKNOWN
    return np.where(unknown, np.uint8(0), predicted) if unknown.any() else predicted


def scorable(outputs: tuple[str, ...], annotated: tuple[str, ...]) -> tuple[str, ...]:
    """Masks that a model gives and a case's labels can judge.

    An organ's name stands for the whole organ (``models.labels.GROUPS``), whose lesions lie inside
    its label where they are not annotated themselves.
    """
    return tuple(name for name in outputs if name in annotated)
