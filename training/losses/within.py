"""What of an organ is lesion: a cross-entropy over the organ's own voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.labels import structure


def families(outputs: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The channels of each organ that has lesions among the outputs, with its lesions', ascending.

    Args:
        outputs: the model's structures in channel order (channel 0 is the background).
    """
    organs = {name: [i + 1] for i, name in enumerate(outputs)}
    for i, name in enumerate(outputs):
        organ = structure(name).parent
        if organ in organs:
            organs[organ].append(i + 1)
    return tuple(tuple(sorted(members)) for members in organs.values() if len(members) > 1)


def within_organs(
    logits: Tensor, target: Tensor, folds: Tensor, groups: Sequence[Sequence[int]]
) -> Tensor:
    """The cross-entropy of organ against lesions within organs; a scalar.

    Dice over what is there says nothing of a lesion where there is none, and in the cross-entropy
    of a whole patch an organ's few voxels hardly count. Here every voxel of an organ does, healthy
    ones included, and nothing else.

    A family is left out for the samples that cannot decide it: where a tumor folds onto its organ,
    nothing of the organ is known to be healthy. The mean is over the families of the other samples
    that are there, and 0 where there is none.

    Args:
        logits: (N, C, *space), channel 0 is the background.
        target: int64 channel indices (N, *space), or ``UNKNOWN``.
        folds: int64 (N, C) of :func:`training.losses.fold`.
        groups: of :func:`families`.
    """
    found = []
    for sample, seen, folded in zip(logits.flatten(2), target.flatten(1), folds, strict=True):
        for members in groups:
            family = torch.tensor(members, device=seen.device)
            inside = torch.isin(seen, family)
            if torch.equal(folded[family], family) and inside.any():
                scores = sample[family][:, inside].float()
                wanted = torch.searchsorted(family, seen[inside])
                found.append(functional.cross_entropy(scores.T, wanted))
    return torch.stack(found).mean() if found else logits.sum() * 0
