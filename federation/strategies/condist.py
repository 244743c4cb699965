"""ConDistFL: the global model teaches what a site has no labels for (Wang et al. 2023)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from federation.strategies.strategy import Start, Strategy
from imaging.errors import BadParameter
from models.labels import BY_NAME
from training.losses import condist, condist_weight
from training.objective import Penalty
from training.recipe import Recipe


def groups_of(recipe: Recipe, annotated: tuple[str, ...]) -> tuple[list[int], list[list[int]]]:
    """A site's own channels, and the others in groups: background, then organ with lesions."""
    local = [c for c, name in enumerate(recipe.outputs, 1) if name in annotated]
    by_organ: dict[str, list[int]] = {}
    for channel, name in enumerate(recipe.outputs, 1):
        if channel not in local:
            by_organ.setdefault(BY_NAME[name].parent or name, []).append(channel)
    return local, [[0], *by_organ.values()]


def _distilling(start: Start) -> Penalty:
    """The distillation's loss times a weight that grows over the rounds."""
    if start.recipe.activation != "softmax" or start.recipe.loss.unlabelled != "unknown":
        raise BadParameter("ConDistFL needs a softmax model that takes unlabelled as unknown.")
    local, groups = groups_of(start.recipe, start.annotated)
    if not local:
        raise BadParameter(f"The site labels {start.annotated}, nothing of {start.recipe.name}.")
    teacher = copy.deepcopy(start.network).eval().requires_grad_(False)
    options = start.options
    weight = condist_weight(start.round, start.rounds, options["first"], options["last"])

    def penalty(network: nn.Module, images: Tensor, targets: Tensor, logits: Tensor) -> Tensor:
        del network
        with torch.no_grad():
            taught = teacher(images).float()
        return weight * condist(logits, taught, targets, local, groups, options["temperature"])

    return penalty


CONDIST = Strategy(
    "condist",
    "Wang et al. 2023, arXiv 2308.04070",
    options={"first": 0.01, "last": 1.0, "temperature": 2.0},
    penalty=_distilling,
)
