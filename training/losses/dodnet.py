"""DoDNet's loss for a sigmoid model whose cases know some of its channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from imaging.errors import BadParameter


def masked_dice_bce(
    logits: Tensor, targets: Tensor, known: Tensor, smooth: float = 1.0, log_dice: bool = False
) -> Tensor:
    """1 - soft Dice plus binary cross-entropy over known channels; a scalar.

    Dice is 2 sum(pt) / (sum p + sum t + smooth), without squares and without ``smooth`` in the
    numerator, as in the authors' code (DoDNet, Zhang et al. 2021): a channel that is known and
    empty costs 1. Each channel is averaged over the samples that know it, then the channels that
    any sample knows are averaged. What is unknown is never looked at; where nothing is known the
    loss and its gradient are 0.

    Args:
        logits: (N, C, *space), before the sigmoid.
        targets: (N, C, *space), 0 or 1; anything where unknown.
        known: bool (N, C).
        smooth: in the denominator, in voxels; 1 in the authors' code.
        log_dice: the negative logarithm of Dice in place of 1 - Dice, ``smooth`` in the numerator
            too, and a channel that is known and empty left to cross-entropy; not the authors'.

    Raises:
        BadParameter: shapes that do not belong together.
    """
    if targets.shape != logits.shape or known.shape != logits.shape[:2]:
        raise BadParameter(
            f"Targets {tuple(targets.shape)} and known {tuple(known.shape)} do not fit logits "
            f"{tuple(logits.shape)}; give (N, C, *space), (N, C) and (N, C, *space)."
        )
    chosen = known.bool()
    x, t = logits[chosen].float().flatten(1), targets[chosen].float().flatten(1)
    p = x.sigmoid()
    both, size = 2 * (p * t).sum(1), p.sum(1) + t.sum(1) + smooth
    apart = -((both + smooth) / size).log() * (t.sum(1) > 0) if log_dice else 1 - both / size
    entropy = functional.binary_cross_entropy_with_logits(x, t, reduction="none").mean(1)
    return (_share(chosen) * (apart + entropy)).sum()


def _share(known: Tensor) -> Tensor:
    """Each known pair's part of the mean, (K,), in the order of ``known.nonzero()``."""
    samples = known.sum(0)
    channels = torch.count_nonzero(samples)
    return 1 / (samples[known.nonzero()[:, 1]] * channels)
