"""Cross-entropy over KiTS21's hierarchical evaluation classes (HECs)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from imaging.errors import BadParameter
from models.labels import GROUPS
from training.losses.marginal import UNKNOWN

Group = tuple[tuple[int, ...], float]


def hec_groups(
    outputs: Sequence[str], weights: tuple[float, float] = (0.1, 0.3)
) -> tuple[Group, ...]:
    """The paper's two groups as (channels, weight): kidney and masses, and masses.

    Args:
        outputs: the model's structures in channel order (channel 0 is the background); a model
            without cysts has the groups without them.
        weights: of the two groups (kits21-transfer, "Loss Function": 0.1 and 0.3).

    Raises:
        BadParameter: no kidney or no mass among the outputs.
    """
    if "kidney" not in outputs or not set(GROUPS["kidney_masses"]) & set(outputs):
        raise BadParameter(
            f"The HEC loss needs kidney and kidney_tumor or kidney_cyst among the outputs, not "
            f"{', '.join(outputs) or 'nothing'}; choose another loss."
        )
    return tuple(
        (tuple(i + 1 for i, name in enumerate(outputs) if name in GROUPS[group]), weight)
        for group, weight in zip(("kidney", "kidney_masses"), weights, strict=True)
    )


def hec_cross_entropy(
    logits: Tensor, target: Tensor, folds: Tensor, groups: Sequence[Group]
) -> Tensor:
    """The weighted sum of each group's two-class cross-entropy, group against the rest; a scalar.

    The paper (kits21-transfer, "Loss Function") leaves open how a softmax becomes two classes.
    Summing the probabilities on either side needs no further head; this is a guess.

    A group is left out for the samples that cannot decide it: where tumors fold onto their
    kidney, masses cannot be told from kidney. Its mean is over the other samples' voxels, and 0
    where there is none.

    Args:
        logits: (N, C, *space), channel 0 is the background.
        target: int64 channel indices (N, *space), or ``UNKNOWN``.
        folds: int64 (N, C) of :func:`training.losses.fold`.
        groups: channels and weight of each group, as :func:`hec_groups` gives them.

    Raises:
        BadParameter: a group with no channel, with every channel, or with one that is not there.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    for channels, weight in groups:
        inside = _membership(channels, logits)
        known = _decidable(folds, inside)
        scores, told = logits[known].float(), target[known]
        wanted = torch.where(told < 0, UNKNOWN, inside[told.clamp_min(0)].long())
        sides = torch.stack([scores[:, where].logsumexp(1) for where in (~inside, inside)], 1)
        entropy = functional.cross_entropy(sides, wanted, ignore_index=UNKNOWN, reduction="sum")
        total = total + weight * entropy / (wanted != UNKNOWN).sum().clamp_min(1)
    return total


def _membership(channels: Sequence[int], logits: Tensor) -> Tensor:
    """Which of the C channels belong to the group, bool (C,)."""
    count = logits.shape[1]
    if not 0 < len(set(channels)) < count or not all(0 <= c < count for c in channels):
        raise BadParameter(
            f"A group needs some, and not all, of the channels 0 to {count - 1}; not {channels}."
        )
    inside = torch.zeros(count, dtype=torch.bool, device=logits.device)
    inside[list(channels)] = True
    return inside


def _decidable(folds: Tensor, inside: Tensor) -> Tensor:
    """Samples (N,) in which no channel of the group looks like one outside it."""
    alike = folds[:, :, None] == folds[:, None, :]
    return ~(alike & inside[:, None] & ~inside[None, :]).any(dim=(1, 2))
