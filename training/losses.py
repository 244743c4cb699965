"""Losses that treat what a data set did not label as unknown, never as background.

Every network channel is *folded* onto the channel it is visible as in a case's labels: an
annotated structure onto itself, a lesion that is not annotated onto its annotated organ, anything
else onto the background. Probabilities are summed along the fold, so that the loss asks nothing
about voxels' unknown structures (the marginal loss of Shi et al. 2021, as ConDistFL uses it).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.labels import visible_as


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

    Args:
        logits: (N, C, *space), channel 0 is the background.
        target: int64 channel indices (N, *space); channels that are not visible in a case count
            as what they fold onto.
        folds: int64 (N, C) of :func:`fold`.
        smooth: added to numerator and denominator of Dice, in voxels.
        batch_dice: one Dice for each structure over the batch (2D slices), else one a sample.
    """
    log_p = marginal_log_probabilities(logits, folds)
    shape = target.shape
    seen = folds.gather(1, target.reshape(len(target), -1)).reshape(shape)
    entropy = functional.nll_loss(log_p, seen)
    dice, counts = _soft_dice(log_p.exp(), seen, folds, smooth, batch_dice)
    if not counts.any():
        return entropy
    return entropy - dice[counts].log().mean()


def dice_loss(probabilities: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - Dice over everything flattened, as MoNet's code has it; a scalar.

    Args:
        probabilities, target: the same shape; target 0 or 1.
        smooth: 1.0 in the authors' code (metrics/metric.py).
    """
    p, t = probabilities.float().flatten(), target.float().flatten()
    return 1 - (2 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth)


def _soft_dice(
    p: Tensor, target: Tensor, folds: Tensor, smooth: float, batch: bool
) -> tuple[Tensor, Tensor]:
    """Dice (N, C - 1) or (C - 1,) of the foreground, and which of them count.

    A structure counts where the labels can speak of it and it is in the sample. One that is absent
    is left to cross-entropy: its Dice would be near 0 as soon as a single voxel is predicted, and
    rare lesions would make up most of the gradient.
    """
    channels = p.shape[1]
    flat = p.flatten(2)
    truth = functional.one_hot(target.flatten(1), channels).movedim(2, 1).to(flat.dtype)
    both = (flat * truth).sum(2)
    size = flat.sum(2) + truth.sum(2)
    visible = folds == torch.arange(channels, device=folds.device)
    counts = visible & (truth.sum(2) > 0)
    if batch:
        both, size = (both * visible).sum(0), (size * visible).sum(0)
        counts = counts.any(0)
    dice = (2 * both + smooth) / (size + smooth)
    return dice[..., 1:], counts[..., 1:]
