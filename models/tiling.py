"""Cutting a grid into overlapping network inputs, and weighing their scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = tuple[int, int, int]

# Standard deviation of the weight along an axis, as a part of the patch (nnU-Net's choice).
_SIGMA = 1 / 8


@dataclass(frozen=True)
class Tiling:
    """Where the patches of one grid lie.

    Attributes:
        patch: (Z, Y, X) of every network input; at most the manifest's, no larger than the grid
            needs.
        padded: the grid's shape after padding at its ends to hold at least one patch.
        starts: per axis the first index of each patch, ascending.
    """

    patch: Index
    padded: Index
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @property
    def count(self) -> int:
        """Number of patches."""
        return math.prod(len(s) for s in self.starts)


def tile(shape: Index, patch: Index, divisor: Index, overlap: float) -> Tiling:
    """Cover a grid.

    An axis shorter than the patch gets one patch of its own length, rounded up to the divisor: a
    small volume is seen in one pass. Patches are spread evenly, so that neighbours share at least
    ``overlap`` of their length, and are no longer than so many of them must be.

    Args:
        shape: of the grid (Z, Y, X).
        patch, divisor, overlap: of the manifest.
    """
    sizes, padded, starts = [], [], []
    for n, p, d in zip(shape, patch, divisor, strict=True):
        size = min(p, -(-n // d) * d)
        steps = math.ceil(max(0, n - size) / _stride(size, overlap))
        while size > d and size - d + steps * _stride(size - d, overlap) >= n:
            size -= d
        length = max(n, size)
        starts.append(tuple(round(i * (length - size) / max(steps, 1)) for i in range(steps + 1)))
        sizes.append(size)
        padded.append(length)
    return Tiling(
        (sizes[0], sizes[1], sizes[2]),
        (padded[0], padded[1], padded[2]),
        (starts[0], starts[1], starts[2]),
    )


def _stride(size: int, overlap: float) -> int:
    return max(1, math.floor(size * (1 - overlap)))


def weights(patch: Index) -> NDArray[np.float32]:
    """How much each voxel of a patch counts where patches overlap (Z, Y, X), in (0, 1]."""
    result = np.ones((1, 1, 1), np.float32)
    for axis, n in enumerate(patch):
        offset = (np.arange(n) - (n - 1) / 2) / max(n * _SIGMA, 1e-6)
        # Bounded below, so that a voxel only a corner reaches is still divided by something.
        line = np.maximum(np.exp(-0.5 * offset**2), 1e-3).astype(np.float32)
        shape = [1, 1, 1]
        shape[axis] = n
        result = result * line.reshape(shape)
    return result
