"""Dice and cross-entropy that treat what a data set did not label as unknown.

Every network channel is *folded* onto the channel it is visible as in a case's labels: an
annotated structure onto itself, a lesion that is not annotated onto its annotated organ, anything
else onto the background. Probabilities are summed along the fold, so that the loss asks nothing
about voxels' unknown structures (the marginal loss of Shi et al. 2021, as ConDistFL uses it).

A voxel whose target is ``UNKNOWN`` counts for nothing at all: two opinions disagree about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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


def folded_logits(logits: Tensor, folds: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of what is visible in one sample.

    Args:
        logits: (C, *space).
        folds: int64 (C,) of :func:`fold`.

    Returns:
        (K, *space), whose softmax is the folded one; and the K channels that they belong to,
        ascending.
    """
    visible = torch.unique(folds)
    if len(visible) == len(folds):
        return logits, visible
    groups = [torch.nonzero(folds == channel).flatten() for channel in visible]
    # Relative to the largest of each group, no probability is too small to be learned from.
    return torch.stack([logits[g].float().logsumexp(0) for g in groups]), visible


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
    entropy, sums = _sums(logits, target, folds)
    dice, counts = _dice(sums, smooth, batch_dice, absent=False, first=1)
    return entropy - _mean(dice.log(), counts)


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
    entropy, sums = _sums(logits, target, folds)
    dice, counts = _dice(sums, smooth, batch_dice, absent=True, first=1)
    return entropy + _mean(1 - dice, counts)


def marginal_dice(
    logits: Tensor, target: Tensor, folds: Tensor, smooth: float = 1e-5, batch_dice: bool = False
) -> Tensor:
    """1 - soft Dice over what is visible, the background included; a scalar.

    SegViz's loss: MONAI's DiceLoss of the softmax as it comes.

    Args:
        logits, target, folds, smooth, batch_dice: as in :func:`marginal_dice_ce`.
    """
    _, sums = _sums(logits, target, folds)
    dice, counts = _dice(sums, smooth, batch_dice, absent=True, first=0)
    return _mean(1 - dice, counts)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Of every sample and channel (N, C), over the known voxels.

    Attributes:
        both: probability where the target is that channel.
        mass: probability anywhere.
        there: voxels of the target; a constant.
        visible: whether the labels can speak of it; bool.
    """

    both: Tensor
    mass: Tensor
    there: Tensor
    visible: Tensor


def _sums(logits: Tensor, target: Tensor, folds: Tensor) -> tuple[Tensor, _Sums]:
    """Cross-entropy of the folded softmax (the mean of the samples' means, a scalar), and sums."""
    entropy, rows = [], []
    for sample, seen, folded in zip(logits.flatten(2), target.flatten(1), folds, strict=True):
        if (seen < 0).any():
            sample, seen = sample[:, seen >= 0], seen[seen >= 0]
        shown, visible = folded_logits(sample, folded)
        channels = torch.searchsorted(visible, folded)[seen]
        total, both, mass = _Softmax.apply(shown, channels)  # type: ignore[no-untyped-call]
        # A sample without any known voxel has nothing to say.
        entropy.append(total / max(1, len(seen)))
        there = torch.bincount(channels, minlength=len(visible)).to(both.dtype)
        some = torch.ones(len(visible), dtype=torch.bool, device=folded.device)
        rows.append([_spread(v, visible, len(folded)) for v in (both, mass, there, some)])
    return torch.stack(entropy).mean(), _Sums(*map(torch.stack, zip(*rows, strict=True)))


def _spread(values: Tensor, at: Tensor, length: int) -> Tensor:
    """A vector of that length, zero but for the values (K,) at their places (K,)."""
    return values.new_zeros(length).index_copy(0, at, values)


class _Softmax(torch.autograd.Function):
    """What a loss needs of a softmax: sums alone, so that little is kept and read twice.

    Logits (K, V) and int64 channels (V,) give the cross-entropy's sum (a scalar), each channel's
    probability summed where it is the target (K,), and everywhere (K,); float32.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = functional.log_softmax(logits, 0, dtype=torch.float32)
        total = -p.gather(0, target[None]).sum()
        p.exp_()
        own = p.gather(0, target[None])[0]
        ctx.save_for_backward(p, own, target)
        ctx.dtype = logits.dtype
        return total, torch.bincount(target, own, len(p)).to(p.dtype), p.sum(1)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        p, own, target = ctx.saved_tensors
        total, both, mass = given
        # The softmax's own derivative p (g - sum of p g), of what each probability counts for.
        own = own * both[target]
        gradient = (mass + total)[:, None] - torch.addmv(own, p.t(), mass)
        gradient *= p
        gradient.scatter_add_(0, target[None], (own - total)[None])
        return gradient.to(ctx.dtype), None


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """The samples' mean of the mean over what counts in each, 0 where nothing does; a scalar.

    A batch that processes share then has the mean of their losses, however many structures each
    one's samples have.
    """
    chosen = torch.where(counts, values, 0)
    return (chosen.sum(-1) / counts.sum(-1).clamp_min(1)).mean()


def _dice(
    sums: _Sums, smooth: float, batch: bool, absent: bool, first: int
) -> tuple[Tensor, Tensor]:
    """Dice of the channels from ``first`` on, (N, K) or of the batch (1, K), and which count.

    A structure counts where the labels can speak of it; with ``absent`` also in samples that lack
    it. What does not count is 1.
    """
    both, size = sums.both, sums.mass + sums.there
    counts = sums.visible if absent else sums.visible & (sums.there > 0)
    if batch:
        both, size = both.sum(0, keepdim=True), size.sum(0, keepdim=True)
        counts = counts.any(0, keepdim=True)
    both, size, counts = both[:, first:], size[:, first:], counts[:, first:]
    # Set before the division, so that what does not count has no 0 / 0 in its gradient.
    both, size = torch.where(counts, both, 1), torch.where(counts, size, 2)
    return (2 * both + smooth) / (size + smooth), counts
