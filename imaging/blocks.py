"""Means of whole blocks of voxels: the cheap and alias-free part of making a CT coarser."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.geometry import Geometry
from imaging.threads import spread

Blocks = tuple[int, int, int]

# A sum of so many 16-bit voxels stays within 32 bits.
_SAFE = 2**16


def block_sizes(source: Geometry, grid: Geometry) -> Blocks:
    """How many source voxels along each source axis fit into a step of the grid."""
    # Along a source axis the grid's step is that of the grid axis it runs closest to.
    nearest = np.abs(source.direction.T @ grid.direction).argmax(axis=1)
    steps = np.asarray(grid.spacing)[nearest] / np.asarray(source.spacing)
    # No block is larger than half the volume: a header with micrometres for millimetres asks for
    # one block that is far larger than the CT.
    most = np.maximum(1, np.asarray(source.shape) // 2)
    z, y, x = np.clip(np.floor(steps + 1e-6), 1, most).astype(int).tolist()
    return z, y, x


def block_means(
    array: NDArray[Any], geometry: Geometry, blocks: Blocks
) -> tuple[NDArray[np.float32], Geometry]:
    """Means of blocks of voxels (Z, Y, X); a last, incomplete block repeats the edge voxel.

    Args:
        array: int16 or float32.
        geometry: its grid.
        blocks: voxels of a block along each axis.

    Returns:
        The means and their grid.
    """
    shape = tuple(-(-n // b) for n, b in zip(array.shape, blocks, strict=True))
    means = np.empty(shape, np.float32)
    exact = array.dtype.kind == "i" and array.itemsize <= 2 and math.prod(blocks) < _SAFE
    wide = np.int32 if exact else np.float64
    last = array.shape[0] - 1

    def average(run: range) -> None:
        source = np.empty(array.shape[1:], wide)
        rows = np.empty((shape[1], array.shape[2]), wide)
        sums = np.empty(shape[1:], wide)
        for z in run:
            rows.fill(0)
            for k in range(blocks[0]):
                # Widened as a whole: numpy widens strided operands piece by piece.
                source[...] = array[min(z * blocks[0] + k, last)]
                _add_up(source, blocks[1], rows)
            sums.fill(0)
            _add_up(rows.T, blocks[2], sums.T)
            np.multiply(sums, 1 / math.prod(blocks), out=means[z], casting="same_kind")

    spread(average, shape[0])
    first = geometry.to_world((np.asarray(blocks) - 1) / 2)
    spacing = np.asarray(geometry.spacing) * blocks
    return means, Geometry(
        (shape[0], shape[1], shape[2]),
        (spacing[0], spacing[1], spacing[2]),
        (first[0], first[1], first[2]),
        geometry.direction,
    )


def _add_up(rows: NDArray[Any], block: int, total: NDArray[Any]) -> None:
    """Add every ``block`` rows to a row of the total, the last one where rows are missing."""
    for k in range(block):
        part = rows[k::block]
        total[: len(part)] += part
        if len(part) < len(total):
            total[-1] += rows[-1]
