"""Dice and cross-entropy that treat what a data set did not label as unknown.

Every network channel is *folded* onto the channel it is visible as in a case's labels: an
annotated structure onto itself, a lesion that is not annotated onto its annotated organ, anything
else onto the background. Probabilities are summed along the fold, so that the loss asks nothing
about voxels' unknown structures (the marginal loss of Shi et al. 2021, as ConDistFL uses it).

A voxel whose target is ``UNKNOWN`` counts for nothing at all: two opinions disagree about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.labels import visible_as

# The target of a voxel that a case's labels say nothing about, not even what it is not.
UNKNOWN = -1


def fold(outputs: Sequence[str], annotated: Iterable[str]) -> Tensor:
    """For every softmax channel (0 is background), the channel it is visible as.

    Args:
        outputs: the model's structures in channel order.
        annotated: the structures that the case's labels hold.

    Returns:
        int64 (len(outputs) + 1,).
    """
    known = set(annotated)
    channels = {name: i + 1 for i, name in enumerate(outputs)}
    seen = [visible_as(name, known) for name in outputs]
    return torch.tensor([0] + [channels.get(name, 0) if name else 0 for name in seen])


def marginal_log_probabilities(logits: Tensor, folds: Tensor) -> Tensor:
    """Log of the folded softmax: (N, C, *space) from logits (N, C, *space), folds (N, C).

    Channels that fold away hold -inf.
    """
    log_p = functional.log_softmax(logits.float(), dim=1)
    own = torch.arange(folds.shape[1], device=folds.device)
    if torch.equal(folds, own.expand_as(folds)):
        return log_p
    target = folds.reshape(*folds.shape, *[1] * (logits.ndim - 2)).expand_as(log_p)
    # A logsumexp along the fold: relative to the largest of each group, no probability is too
    # small to be learned from, and a channel that folds alone keeps its value to the last bit.
    largest = torch.full_like(log_p, -torch.inf)
    largest = largest.scatter_reduce_(1, target, log_p.detach(), "amax")
    relative = (log_p - largest.gather(1, target)).exp()
    return torch.zeros_like(log_p).scatter_add_(1, target, relative).log() + largest


def marginal_log_dice_ce(
    logits: Tensor, target: Tensor, folds: Tensor, smooth: float = 1.0, batch_dice: bool = False
) -> Tensor:
    """The negative logarithm of soft Dice, plus cross-entropy, over what is visible; a scalar.

    The logarithm (Wong et al. 2018, exponential logarithmic loss, exponent 1) divides Dice's
    gradient by Dice itself. Without it small organs starve: cross-entropy makes everything
    background within a few steps, and Dice's gradient has the small probability as a factor.

    A structure that is absent from a sample is left to cross-entropy: its Dice would be near 0 as
    soon as a single voxel is predicted, and rare lesions would make up most of the gradient.

    Args:
        logits: (N, C, *space), channel 0 is the background.
        target: int64 channel indices (N, *space); channels that are not visible in a case count
            as what they fold onto, and ``UNKNOWN`` voxels not at all.
        folds: int64 (N, C) of :func:`fold`.
        smooth: added to numerator and denominator of Dice, in voxels.
        batch_dice: one Dice for each structure over the batch (2D slices), else one a sample.
    """
    log_p, seen = _folded(logits, target, folds)
    dice, counts = _dice(log_p, seen, folds, smooth, batch_dice, absent=False, first=1)
    return _entropy(log_p, seen) - _mean(dice.log(), counts)


def marginal_dice_ce(
    logits: Tensor, target: Tensor, folds: Tensor, smooth: float = 1e-5, batch_dice: bool = False
) -> Tensor:
    """1 - soft Dice, plus cross-entropy, over what is visible; a scalar.

    The plain form of nnU-Net (Isensee et al. 2021) and of ConDistFL's marginal loss: the mean
    over every visible structure, absent ones too, without the background.

    Args:
        logits, target, folds, batch_dice: as in :func:`marginal_log_dice_ce`.
        smooth: added to numerator and denominator of Dice, in voxels; 1e-5 in both.
    """
    log_p, seen = _folded(logits, target, folds)
    dice, counts = _dice(log_p, seen, folds, smooth, batch_dice, absent=True, first=1)
    return _entropy(log_p, seen) + _mean(1 - dice, counts)


def marginal_dice(
    logits: Tensor, target: Tensor, folds: Tensor, smooth: float = 1e-5, batch_dice: bool = False
) -> Tensor:
    """1 - soft Dice over what is visible, the background included; a scalar.

    SegViz's loss: MONAI's DiceLoss of the softmax as it comes.

    Args:
        logits, target, folds, smooth, batch_dice: as in :func:`marginal_dice_ce`.
    """
    log_p, seen = _folded(logits, target, folds)
    dice, counts = _dice(log_p, seen, folds, smooth, batch_dice, absent=True, first=0)
    return _mean(1 - dice, counts)


def _folded(logits: Tensor, target: Tensor, folds: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the folded softmax (N, C, *space), and the target's channels folded alike."""
    known = target.reshape(len(target), -1)
    seen = folds.gather(1, known.clamp_min(0))
    seen = torch.where(known < 0, UNKNOWN, seen).reshape(target.shape)
    return marginal_log_probabilities(logits, folds), seen


def _entropy(log_p: Tensor, seen: Tensor) -> Tensor:
    """Cross-entropy of the folded softmax over each sample's known voxels; the samples' mean."""
    losses = functional.nll_loss(log_p, seen, ignore_index=UNKNOWN, reduction="none").flatten(1)
    known = (seen != UNKNOWN).flatten(1).sum(1)
    # A sample without any known voxel has nothing to say.
    return (losses.sum(1) / known.clamp_min(1)).mean()


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """The samples' mean of the mean over what counts in each, 0 where nothing does; a scalar.

    A batch that processes share then has the mean of their losses, however many structures each
    one's samples have.
    """
    chosen = torch.where(counts, values, 0)
    return (chosen.sum(-1) / counts.sum(-1).clamp_min(1)).mean()


def _dice(
    log_p: Tensor,
    seen: Tensor,
    folds: Tensor,
    smooth: float,
    batch: bool,
    absent: bool,
    first: int,
) -> tuple[Tensor, Tensor]:
    """Dice of the channels from ``first`` on, (N, K) or of the batch (1, K), and which count.

    A structure counts where the labels can speak of it; with ``absent`` also in samples that lack
    it. What does not count is 1.
    """
    channels = log_p.shape[1]
    p = log_p.exp().flatten(2)
    if (seen == UNKNOWN).any():
        p = p * (seen != UNKNOWN).flatten(1)[:, None]
    every = torch.arange(channels, device=seen.device)
    truth = (seen.flatten(1)[:, None] == every[:, None]).to(p.dtype)
    both = (p * truth).sum(2)
    size = p.sum(2) + truth.sum(2)
    visible = folds == torch.arange(channels, device=folds.device)
    counts = visible if absent else visible & (truth.sum(2) > 0)
    if batch:
        # Where a structure is not visible, neither the folded softmax nor the target has it.
        both, size = both.sum(0, keepdim=True), size.sum(0, keepdim=True)
        counts = counts.any(0, keepdim=True)
    both, size, counts = both[:, first:], size[:, first:], counts[:, first:]
    # Set before the division, so that what does not count has no 0 / 0 in its gradient.
    both, size = torch.where(counts, both, 1), torch.where(counts, size, 2)
    return (2 * both + smooth) / (size + smooth), counts
