"""Conditional distillation by hand, against the formula written out, and what it must not see."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import MaskedDiceLoss

from imaging.errors import BadParameter
from training.losses import condist, condist_weight

# Channels as four sites share them: liver 1, 2; spleen 3; pancreas 4, 5; kidney 6, 7.
LOCAL = (4, 5)
GROUPS = ((0,), (1, 2), (3,), (6, 7))
quick = settings(derandomize=True, deadline=None, max_examples=40)
seeds = st.integers(0, 10**6)


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn((2, 2, 8, 2, 3, 4), generator=generator) * 2
    return student, teacher, torch.randint(0, 8, (2, 2, 3, 4), generator=generator)


def masked(teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    local = torch.tensor(LOCAL)
    return torch.isin(teacher.argmax(1), local) | torch.isin(target, local)


def test_by_hand() -> None:
    # P = (background, own organ, other organ) at temperature 1; the third voxel is labelled here.
    student = torch.tensor([[0.6, 0.2, 0.2], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]]).T[None].log()
    teacher = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]]).T[None].log()
    target = torch.tensor([[0, 0, 1]])
    # On condition of not being the own organ: student .75 .25 and .2 .8, teacher 8/9 1/9, .25 .75.
    background = (2 * (0.75 * 8 / 9 + 0.2 * 0.25)) / (0.75 + 0.2 + 8 / 9 + 0.25)
    organ = (2 * (0.25 / 9 + 0.8 * 0.75)) / (0.25 + 0.8 + 1 / 9 + 0.75)
    found = condist(student, teacher, target, (1,), ((0,), (2,)), temperature=1.0, smooth=0)
    assert found.item() == pytest.approx(1 - (background + organ) / 2, abs=1e-6)


@quick
@given(seeds)
def test_it_is_the_published_formula(seed: int) -> None:
    """One minus the local probability as the divisor; MONAI's masked Dice."""
    student, teacher, target = draw(seed)

    def conditional(logits: torch.Tensor) -> torch.Tensor:
        p = (logits / 2).softmax(1)
        own = p[:, list(LOCAL)].sum(1, keepdim=True)
        return torch.stack([p[:, list(g)].sum(1) for g in GROUPS], 1) / (1 - own)

    mask = (~masked(teacher, target)).float()[:, None]
    theirs = MaskedDiceLoss()(conditional(student), conditional(teacher), mask=mask)
    found = condist(student, teacher, target, LOCAL, GROUPS)
    assert found.item() == pytest.approx(theirs.item(), abs=1e-5)


@quick
@given(seeds)
def test_own_channels_and_own_voxels_are_left_alone(seed: int) -> None:
    student, teacher, target = draw(seed)
    student.requires_grad_()
    teacher.requires_grad_()
    condist(student, teacher, target, LOCAL, GROUPS).backward()
    assert teacher.grad is None
    gradient = student.grad.movedim(1, 0)
    assert not gradient[list(LOCAL)].any()
    hidden = masked(teacher, target)
    assert not gradient[:, hidden].any()
    assert gradient[[0, 1, 2, 3, 6, 7]][:, ~hidden].any(0).all()


@quick
@given(seeds)
def test_what_is_hidden_and_the_order_of_the_batch_change_nothing(seed: int) -> None:
    student, teacher, target = draw(seed)
    first = condist(student, teacher, target, LOCAL, GROUPS).item()
    turned = condist(student.flip(0), teacher.flip(0), target.flip(0), LOCAL, GROUPS)
    assert turned.item() == pytest.approx(first, abs=1e-6)
    other = student.clone()
    other.movedim(1, 0)[:, masked(teacher, target)] = 9.0
    other[:, list(LOCAL)] -= 3
    assert condist(other, teacher, target, LOCAL, GROUPS).item() == pytest.approx(first, abs=1e-6)
    # Labels elsewhere are no knowledge: only where the own organ is matters.
    blank = torch.where(torch.isin(target, torch.tensor(LOCAL)), target, 0)
    assert condist(student, teacher, blank, LOCAL, GROUPS).item() == first


def test_agreement_is_best_where_the_teacher_is_sure() -> None:
    teacher = torch.zeros(1, 3, 6)
    teacher[:, 2, :3], teacher[:, 0, 3:] = 80.0, 80.0
    target = torch.zeros(1, 6, dtype=torch.int64)
    assert condist(teacher, teacher, target, (1,), ((0,), (2,))).item() == pytest.approx(
        0, abs=1e-6
    )
    turned = teacher.flip(1)
    assert condist(turned, teacher, target, (1,), ((0,), (2,))).item() > 0.99


def test_a_patch_full_of_the_own_organ_costs_nothing() -> None:
    student, teacher, target = draw(0)
    student.requires_grad_()
    loss = condist(student, teacher, torch.full_like(target, 4), LOCAL, GROUPS)
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    student, teacher, target = draw(2)
    student = (student.sign() * 1e30).requires_grad_()
    loss = condist(student, teacher.sign() * 1e30, target, LOCAL, GROUPS)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(
    ("local", "groups"),
    [
        ((4,), GROUPS),
        ((4, 5, 6), GROUPS),
        ((), ((0,), (1, 2, 3, 4, 5, 6, 7))),
        ((0, 4, 5), GROUPS[1:]),
        (LOCAL, ((1, 2), (0,), (3,), (6, 7))),
        (tuple(range(8)), ()),
        (LOCAL, (*GROUPS, (8,))),
    ],
)
def test_channels_must_be_shared_out_once(
    local: tuple[int, ...], groups: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(BadParameter, match="once, the background's group first"):
        condist(*draw(0), local, groups)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(BadParameter, match="temperature"):
        condist(*draw(0), LOCAL, GROUPS, temperature)


def test_the_weight_grows_in_equal_steps() -> None:
    weights = [condist_weight(r, 120) for r in range(120)]
    assert (weights[0], weights[-1]) == (0.01, 1.0)
    steps = [b - a for a, b in itertools.pairwise(weights)]
    assert steps == pytest.approx([0.99 / 119] * 119)
    assert condist_weight(1, 3, first=0.0, last=0.5) == 0.25
    assert condist_weight(0, 1) == 0.01


@pytest.mark.parametrize("number", [-1, 3])
def test_a_round_beyond_the_training_is_refused(number: int) -> None:
    with pytest.raises(BadParameter, match=f"no round {number} of 3"):
        condist_weight(number, 3)
