"""Linear filters along one axis, as matrices: on one core a product beats a convolution."""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor


def along(values: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """The product of a matrix with every line of voxels along an axis.

    Args:
        values: float32 of any shape, ``n`` long along ``axis``.
        matrix: float32 (m, n).
        axis: 0 or more.

    Returns:
        float32 of the same shape, but ``m`` long along ``axis``.
    """
    if axis == values.ndim - 1:
        return values @ matrix.T
    shape = (*values.shape[:axis], len(matrix), *values.shape[axis + 1 :])
    lines = values.reshape(-1, values.shape[axis], int(np.prod(values.shape[axis + 1 :])))
    return torch.matmul(matrix, lines).reshape(shape)


def gaussian(n: int, sigma: float) -> Tensor:
    """A Gaussian blur of ``n`` voxels in a line, float32 (n, n); its rows sum to 1.

    Args:
        n: voxels.
        sigma: standard deviation in voxels.
    """
    away = torch.arange(n)[:, None] - torch.arange(n)
    weights = torch.exp(-0.5 * (away / max(sigma, 1e-3)) ** 2)
    return weights / weights.sum(1, keepdim=True)


def blurred(values: Tensor, sigmas: tuple[float, ...]) -> Tensor:
    """A Gaussian blur of the last axes; 0 leaves an axis alone.

    Args:
        values: float32, at least as many axes as sigmas.
        sigmas: standard deviations in voxels, the last axis last.
    """
    first = values.ndim - len(sigmas)
    for axis, sigma in enumerate(sigmas, first):
        if sigma > 0:
            values = along(values, gaussian(values.shape[axis], sigma), axis)
    return values


def slabs(n: int, step: float, thickness: float, first: float) -> Tensor:
    """Slices averaged over a thickness and put back on the fine grid, float32 (n, n).

    Args:
        n: voxels in a line.
        step: distance of the slices in voxels.
        thickness: of a slice in voxels.
        first: where the first slice lies, in voxels.
    """
    fine = np.arange(n)
    middles = np.arange(first, n - 1 + step, step)
    # How much of each voxel a slice holds.
    inside = thickness / 2 + 0.5 - np.abs(middles[:, None] - fine)
    means = np.clip(inside, 0, min(1.0, thickness))
    means /= means.sum(1, keepdims=True).clip(1e-6)
    held = means.sum(1) > 0.5
    middles, means = middles[held], means[held]
    back = np.stack([np.interp(fine, middles, row) for row in np.eye(len(middles))], 1)
    return torch.from_numpy((back @ means).astype(np.float32))


def between(n: int, block: int, blocks: int) -> Tensor:
    """Linear interpolation between the middles of blocks, float32 (n, blocks).

    Args:
        n: voxels in a line.
        block: voxels in a block.
        blocks: how many there are; the last one may be short.
    """
    at = (np.arange(n) + 0.5) / block - 0.5
    rows = [np.interp(at, np.arange(blocks), one) for one in np.eye(blocks)]
    return torch.from_numpy(np.stack(rows, 1).astype(np.float32))


def spline(n: int, knots: int) -> Tensor:
    """What each of so many uniform cubic B-spline coefficients adds to ``n`` voxels.

    The coefficient ``k`` stands at ``2 (k - 1) / (knots - 3) - 1`` where the line of voxels runs
    from -1 to 1: one is beyond each end. Coefficients on a straight line give that line.

    Args:
        n: voxels in a line.
        knots: coefficients, at least 4.

    Returns:
        float32 (n, knots).
    """
    at = (np.arange(n) + 0.5) / n * (knots - 3)
    basis = BSpline.design_matrix(at, np.arange(-3, knots + 1), 3)
    return torch.from_numpy(basis.toarray().astype(np.float32))
