"""How much the masks of two ways to run one model agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.labels import BY_NAME


class Overlaps:
    """Voxels of all CTs counted together: a lesion of few voxels in one of them is no structure.

    Args:
        outputs: names of the structures.
    """

    def __init__(self, outputs: Sequence[str]) -> None:
        self._table = np.zeros(256, np.int64)
        for place, name in enumerate(outputs):
            self._table[BY_NAME[name].value] = place + 1
        # In both, in the one, in the other.
        self._sums = np.zeros((3, len(outputs) + 1), np.int64)

    def add(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
        """Count two label maps of one CT."""
        for row, labels in zip(self._sums, (one[one == other], one, other), strict=True):
            row += np.bincount(self._table[labels.ravel()], minlength=len(row))

    def any(self) -> bool:
        """Whether the one found anything."""
        return bool(self._sums[1, 1:].any())

    def least_dice(self) -> float:
        """The least Dice of any structure that either found."""
        both, one, other = self._sums[:, 1:]
        there = (one + other) > 0
        return float(np.min(2 * both[there] / (one + other)[there], initial=1.0))
