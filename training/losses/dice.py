"""Soft Dice of one structure."""

from __future__ import annotations

from torch import Tensor


def dice_loss(probabilities: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - Dice over everything flattened, as MoNet's code has it; a scalar.

    Args:
        probabilities, target: the same shape; target 0 or 1.
        smooth: 1.0 in the authors' code (metrics/metric.py).
    """
    p, t = probabilities.float().flatten(), target.float().flatten()
    return 1 - (2 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth)
