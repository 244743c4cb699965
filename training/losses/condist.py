"""Conditional distillation: the global model teaches a site what the site has no labels for.

ConDistFL, Wang et al. 2023, arXiv 2308.04070.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imaging.errors import BadParameter


def condist(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    local: Sequence[int],
    groups: Sequence[Sequence[int]],
    temperature: float = 2.0,
    smooth: float = 1e-5,
) -> Tensor:
    """1 - the soft Dice between student and teacher on what is not labelled here; a scalar.

    Compared are probabilities on condition that a voxel is no local structure, summed over each
    group, in the voxels that neither the labels nor the teacher call a local structure. The mean
    is over samples and groups, the background's among them. The authors divide by one minus the
    local probability plus 1e-5; a softmax over the other channels is the same without the 1e-5.

    Args:
        student: logits (N, C, *space) of the model in training, at full resolution.
        teacher: logits (N, C, *space) of the round's global model; no gradient flows into it.
        target: int64 channel indices (N, *space) of the local labels.
        local: channels that are labelled here, without the background.
        groups: the other channels, each once: the background's group first, then one for each
            organ of the other sites with its lesions.
        temperature: both logits are divided by it; 2 in the paper.
        smooth: added to numerator and denominator of Dice, in voxels; 1e-5 in the authors' code.

    Raises:
        BadParameter: channels missing or named twice, or a temperature that is not positive.
    """
    _check(student.shape[1], local, groups, temperature)
    teacher = teacher.detach()
    own = torch.tensor(sorted(local), device=target.device)
    elsewhere = ~(torch.isin(teacher.argmax(1), own) | torch.isin(target, own)).flatten(1)
    p, t = (
        _conditional(logits, groups, temperature) * elsewhere[:, None]
        for logits in (student, teacher)
    )
    dice = (2 * (p * t).sum(2) + smooth) / (p.sum(2) + t.sum(2) + smooth)
    return 1 - dice.mean()


def condist_weight(round: int, rounds: int, first: float = 0.01, last: float = 1.0) -> float:
    """The weight of the distillation in a round, growing in equal steps.

    Args:
        round: counted from 0.
        rounds: of the whole training; 120 in the authors' configuration.
        first, last: the weights of the first and the last round; theirs are 0.01 and 1.

    Raises:
        BadParameter: a round that the training does not have.
    """
    if not 0 <= round < rounds:
        raise BadParameter(f"There is no round {round} of {rounds}; count from 0.")
    return first + (last - first) * round / max(rounds - 1, 1)


def _conditional(logits: Tensor, groups: Sequence[Sequence[int]], temperature: float) -> Tensor:
    """Probability (N, groups, voxels) of each group, given that it is one of them."""
    order = [channel for group in groups for channel in group]
    p = (logits[:, order].float() / temperature).softmax(1).flatten(2)
    parts = torch.split(p, [len(group) for group in groups], dim=1)
    return torch.stack([part.sum(1) for part in parts], 1)


def _check(
    channels: int, local: Sequence[int], groups: Sequence[Sequence[int]], temperature: float
) -> None:
    named = sorted([*local, *(channel for group in groups for channel in group)])
    if named != list(range(channels)) or not local or not groups or 0 not in groups[0]:
        raise BadParameter(
            f"Local channels {list(local)} and groups {[list(g) for g in groups]} must name each "
            f"of the channels 0 to {channels - 1} once, the background's group first."
        )
    if not temperature > 0:
        raise BadParameter(f"temperature must be positive, not {temperature}.")
