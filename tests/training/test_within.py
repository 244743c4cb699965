"""Cross-entropy of organ against lesions within organs."""

from __future__ import annotations

import math

import pytest
import torch

from imaging.errors import BadParameter
from tests.training.test_objective import parts
from tests.training.tiny import volumetric
from training.losses import UNKNOWN, families, fold, within_organs
from training.recipe import Loss

OUTPUTS = ("pancreas", "kidney", "kidney_tumor", "kidney_cyst", "liver")
FAMILIES = ((2, 3, 4),)


def scored(*rows: tuple[float, ...]) -> torch.Tensor:
    """Logits (1, C, V) of one sample by the probabilities at each voxel."""
    return torch.tensor(rows).T[None].log()


def test_families_are_organs_with_lesions_among_the_outputs() -> None:
    assert families(OUTPUTS) == FAMILIES
    assert families(("kidney_tumor", "kidney", "pancreas", "pancreas_tumor")) == ((1, 2), (3, 4))
    assert families(("kidney_tumor", "pancreas")) == ()


def test_healthy_voxels_of_an_organ_count_and_nothing_else() -> None:
    logits = scored(
        (0.5, 0.1, 0.2, 0.1, 0.05, 0.05),
        (0.1, 0.1, 0.1, 0.6, 0.05, 0.05),
        (0.9, 0.02, 0.02, 0.02, 0.02, 0.02),
        (0.1, 0.1, 0.1, 0.6, 0.05, 0.05),
    ).requires_grad_()
    target = torch.tensor([[2, 3, 0, UNKNOWN]])
    known = fold(OUTPUTS, OUTPUTS)[None]
    found = within_organs(logits, target, known, FAMILIES)
    expected = -(math.log(0.2 / 0.35) + math.log(0.6 / 0.75)) / 2
    assert found.item() == pytest.approx(expected, abs=1e-6)
    (gradient,) = torch.autograd.grad(found, logits)
    assert (gradient[0, :, 2:] == 0).all(), "neither background nor what is unknown"
    assert (gradient[0, [0, 1, 5]] == 0).all(), "nor other structures' scores"


def test_an_organ_whose_lesions_are_not_labelled_is_left_out() -> None:
    logits = scored((0.1, 0.1, 0.2, 0.4, 0.1, 0.1), (0.1, 0.1, 0.2, 0.4, 0.1, 0.1))
    target = torch.tensor([[2, 0]])
    unknown = fold(OUTPUTS, ("kidney", "kidney_tumor"))[None]
    assert within_organs(logits, target, unknown, FAMILIES).item() == 0
    both = torch.cat([unknown, fold(OUTPUTS, OUTPUTS)[None]])
    twice = within_organs(logits.repeat(2, 1, 1), target.repeat(2, 1), both, FAMILIES)
    assert twice.item() == pytest.approx(-math.log(0.2 / 0.7), abs=1e-6)


def test_a_recipe_weighs_it() -> None:
    names = ("pancreas", "kidney", "kidney_tumor")
    free = {"outputs": names, "lesion_free": ("kidney_tumor",)}
    plain = volumetric(loss=Loss("dice_ce"), **free)
    _, batch, logits, without = parts(plain)
    _, _, _, found = parts(volumetric(loss=Loss("dice_ce", within=0.5), **free))
    inside = within_organs(logits, batch.targets, batch.folds, families(names))
    assert inside > 0
    assert found.item() == pytest.approx((without + 0.5 * inside).item())
    with pytest.raises(BadParameter, match="within belongs to"):
        Loss("softmax_dice", within=1.0)
