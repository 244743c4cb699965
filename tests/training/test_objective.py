"""Each loss by its name in a recipe, against the loss itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.tiny import cases, flat, volumetric
from training import losses
from training.objective import Objective
from training.recipe import Loss, Recipe
from training.samples import Batch, Sampler
from training.trainer import initial_network

KIDNEY = ("kidney", "kidney_tumor", "kidney_cyst")


def batch_of(recipe: Recipe) -> Batch:
    return Sampler(cases(recipe), recipe).batch(0)


def parts(recipe: Recipe) -> tuple[Objective, Batch, Tensor, Tensor]:
    """The objective, a batch, the network's logits for it and the objective's loss."""
    objective = Objective(initial_network(recipe), recipe).eval()
    batch = batch_of(recipe)
    with torch.no_grad():
        found = objective(*vars(batch).values())
        logits = objective.network(batch.images)
    return objective, batch, logits, found


@pytest.mark.parametrize(
    ("loss", "function"),
    [
        (Loss("dice_ce"), losses.marginal_dice_ce),
        (Loss("dice_ce", log_dice=True), losses.marginal_log_dice_ce),
        (Loss("softmax_dice"), losses.marginal_dice),
    ],
)
@pytest.mark.parametrize("batch_dice", [False, True])
def test_softmax_losses(loss: Loss, function: Any, batch_dice: bool) -> None:
    loss = dataclasses.replace(loss, smooth=2.0, batch_dice=batch_dice)
    recipe = volumetric(loss=loss, batch=2)
    _, batch, logits, found = parts(recipe)
    expected = function(logits, batch.targets, batch.folds, 2.0, batch_dice)
    assert torch.equal(found, expected)


def test_hec_adds_the_two_classes() -> None:
    recipe = volumetric(loss=Loss("hec", smooth=1e-5, hec=(0.2, 0.7)), outputs=KIDNEY)
    _, batch, logits, found = parts(recipe)
    plain = losses.marginal_dice_ce(logits, batch.targets, batch.folds, 1e-5)
    groups = (((1, 2, 3), 0.2), ((2, 3), 0.7))
    more = losses.hec_cross_entropy(logits, batch.targets, batch.folds, groups)
    assert torch.equal(found, plain + more)


def test_dice_of_slices() -> None:
    recipe = flat()
    _, batch, logits, found = parts(recipe)
    assert torch.equal(found, losses.dice_loss(logits[:, 0].sigmoid(), batch.targets, 1.0))


TASKS = (
    ("kidney", "kidney_tumor"),
    ("liver", "kidney_tumor"),
    (None, "kidney_tumor"),
    ("hepatic_vessel", None),
)
CODES = torch.tensor([0, 1, 2, 3, 4])  # background, kidney, its tumor, liver, its vessels


@pytest.mark.parametrize(
    ("task", "organ", "tumor"),
    [
        (0, [0, 1, 1, 0, 0], [0, 0, 1, 0, 0]),  # an organ holds its tumor
        (1, [0, 0, 0, 1, 1], [0, 0, 1, 0, 0]),  # and its vessels; another organ's tumor does not
        (2, None, [0, 0, 1, 0, 0]),
        (3, [0, 0, 0, 0, 1], None),
    ],
)
def test_a_task_learns_its_organ_and_tumor(
    task: int, organ: list[int] | None, tumor: list[int] | None
) -> None:
    recipe = volumetric(
        architecture="dodnet",
        outputs=("kidney", "kidney_tumor", "liver", "hepatic_vessel"),
        activation="sigmoid",
        tasks=TASKS,
        loss=Loss("task_dice_bce", smooth=2.0),
    )
    logits = torch.tensor([[2.0, -1.0, 0.5, 3.0, 1.0], [-2.0, 1.0, 0.25, -3.0, 0.0]])
    logits = logits.reshape(1, 2, 1, 1, 5)
    objective = Objective(_Says(logits), recipe)
    targets = CODES.reshape(1, 1, 1, 5)
    found = objective(
        torch.zeros(1, 1, 1, 1, 5), targets, torch.zeros(1, 1).long(), torch.tensor([task])
    )
    wanted = torch.tensor([organ or [0] * 5, tumor or [0] * 5]).reshape(1, 2, 1, 1, 5).float()
    known = torch.tensor([[organ is not None, tumor is not None]])
    assert torch.equal(found, losses.masked_dice_bce(logits, wanted, known, 2.0))


class _Says(nn.Module):
    """Gives the same logits whatever it is shown."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, *_: Tensor) -> Tensor:
        return self.logits


def test_deep_heads_are_weighed() -> None:
    recipe = volumetric(loss=Loss("dice_ce"))
    levels = torch.randn(1, 3, 3, 16, 16, 16)
    batch = batch_of(recipe)
    found = Objective(_Says(levels), recipe)(*vars(batch).values())
    each = [
        losses.marginal_dice_ce(levels[:, i], batch.targets, batch.folds, 1.0) for i in (0, 1, 2)
    ]
    expected = sum(w * e for w, e in zip((4 / 7, 2 / 7, 1 / 7), each, strict=True))
    assert torch.allclose(found, expected)


def variational(**changes: Any) -> Recipe:
    return volumetric(
        architecture="c2fnas",
        options={"filters": 4, "vae": True, "patch": [32, 32, 32]},
        patch=(32, 32, 32),
        **changes,
    )


def test_the_variational_branch_is_trained_and_not_judged() -> None:
    recipe = variational(loss=Loss("dice_ce", kl=0.2, reconstruction=0.3))
    objective = Objective(initial_network(recipe), recipe).train()
    batch = batch_of(recipe)
    torch.manual_seed(3)
    found = objective(*vars(batch).values())
    torch.manual_seed(3)
    logits, made = objective.network.forward_vae(batch.images)
    expected = (
        losses.marginal_dice_ce(logits, batch.targets, batch.folds, 1.0)
        + 0.2 * losses.kl_divergence(made.mean, made.log_variance)
        + 0.3 * losses.reconstruction_l2(batch.images, made.image)
    )
    assert torch.allclose(found, expected)
    found.backward()
    assert all(p.grad is not None for p in objective.parameters())
    branch = [p.grad.abs().sum() for n, p in objective.named_parameters() if ".vae." in n]
    assert sum(g > 0 for g in branch) > len(branch) / 2
    with torch.no_grad():
        plain = losses.marginal_dice_ce(
            objective.eval().network(batch.images), batch.targets, batch.folds, 1.0
        )
        assert torch.allclose(objective(*vars(batch).values()), plain)
