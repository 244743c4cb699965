"""Losses against numbers worked out by hand, and the promise that unknown is not background."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss, DiceLoss
from torch.nn import functional

from training.losses import (
    UNKNOWN,
    dice_loss,
    fold,
    folded_logits,
    marginal_dice,
    marginal_dice_ce,
    marginal_log_dice_ce,
)

OUTPUTS = ("pancreas", "pancreas_tumor", "kidney", "kidney_tumor", "liver")
quick = settings(derandomize=True, deadline=None, max_examples=40)
annotations = st.sets(st.sampled_from(OUTPUTS), min_size=1).map(sorted)
every_form = pytest.mark.parametrize(
    "loss", [marginal_log_dice_ce, marginal_dice_ce, marginal_dice]
)
Loss = Callable[..., torch.Tensor]


def logits(seed: int, shape: tuple[int, ...] = (2, 6, 3, 4, 5)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def targets(seed: int, shape: tuple[int, ...] = (2, 3, 4, 5)) -> torch.Tensor:
    return torch.randint(0, 6, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        (OUTPUTS, [0, 1, 2, 3, 4, 5]),
        (("pancreas", "kidney", "liver"), [0, 1, 1, 3, 3, 5]),
        (("pancreas", "pancreas_tumor"), [0, 1, 2, 0, 0, 0]),
        (("kidney_tumor",), [0, 0, 0, 0, 4, 0]),
        (("spleen",), [0, 0, 0, 0, 0, 0]),
        ((), [0, 0, 0, 0, 0, 0]),
    ],
)
def test_fold(annotated: tuple[str, ...], expected: list[int]) -> None:
    assert fold(OUTPUTS, annotated).tolist() == expected


def test_a_lesion_whose_organ_is_no_output_is_background_where_only_the_organ_is_known() -> None:
    assert fold(("kidney_tumor",), ("kidney",)).tolist() == [0, 0]


def test_marginal_probabilities_by_hand() -> None:
    # Probabilities .1 .2 .3 .4; the second and third channel are seen as one, the last as nothing.
    p = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(4, 1)
    found, visible = folded_logits(p.log(), torch.tensor([0, 1, 1, 0]))
    assert torch.allclose(found.softmax(0).flatten(), torch.tensor([0.5, 0.5]))
    assert visible.tolist() == [0, 1]


def test_marginal_log_dice_ce_by_hand() -> None:
    # Two voxels of P = (background, pancreas, liver); liver is unknown.
    p = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]]).T[None]
    target = torch.tensor([[0, 1]])
    folds = fold(("pancreas", "liver"), ("pancreas",))[None]
    entropy = -(math.log(0.5 + 0.2) + math.log(0.7)) / 2
    dice = (2 * 0.7 + 1) / (0.3 + 0.7 + 1 + 1)
    found = marginal_log_dice_ce(p.log(), target, folds)
    assert found.item() == pytest.approx(entropy - math.log(dice), abs=1e-6)


def test_dice_is_per_sample_or_over_the_batch() -> None:
    p = torch.tensor([[[0.1], [0.9]], [[0.6], [0.4]]])
    target = torch.tensor([[1], [0]])
    folds = torch.tensor([[0, 1], [0, 1]])
    entropy = -(math.log(0.9) + math.log(0.6)) / 2
    # The second sample lacks the structure: cross-entropy speaks of it, its own Dice does not.
    each = (2 * 0.9 + 1) / (0.9 + 1 + 1)
    together = (2 * 0.9 + 1) / (0.9 + 0.4 + 1 + 1)
    assert marginal_log_dice_ce(p.log(), target, folds).item() == pytest.approx(
        entropy - math.log(each) / 2
    )
    found = marginal_log_dice_ce(p.log(), target, folds, batch_dice=True).item()
    assert found == pytest.approx(entropy - math.log(together))


def test_batch_dice_counts_a_structure_only_in_the_cases_that_know_it() -> None:
    knows = torch.tensor([[0, 1], [0, 0]])
    p = torch.tensor([[[0.1], [0.9]], [[0.6], [0.4]]])
    found = marginal_log_dice_ce(p.log(), torch.tensor([[1], [0]]), knows, batch_dice=True)
    # The second case sees background and nothing else: entropy 0, no Dice.
    expected = -math.log(0.9) / 2 - math.log((2 * 0.9 + 1) / (0.9 + 1 + 1))
    assert found.item() == pytest.approx(expected, abs=1e-6)


@quick
@given(st.integers(0, 10**6))
def test_with_everything_annotated_it_is_plain_log_dice_and_cross_entropy(seed: int) -> None:
    x, t = logits(seed), targets(seed)
    p = x.softmax(1)
    truth = functional.one_hot(t, 6).movedim(-1, 1)
    both, size = (p * truth).flatten(2).sum(2), (p + truth).flatten(2).sum(2)
    dice = ((2 * both + 1) / (size + 1))[:, 1:]
    expected = functional.cross_entropy(x, t) - dice.log().mean()
    found = marginal_log_dice_ce(x, t, torch.arange(6).expand(2, 6))
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


@every_form
@quick
@given(seed=st.integers(0, 10**6), annotated=annotations)
def test_what_is_unknown_changes_nothing(loss: Loss, seed: int, annotated: list[str]) -> None:
    """Voxels may hold any structure that looks the same in the labels."""
    folds = fold(OUTPUTS, annotated).expand(2, 6)
    x, t = logits(seed), targets(seed)
    alike = [torch.nonzero(folds[0] == folds[0, c]).flatten().tolist() for c in range(6)]
    generator = torch.Generator().manual_seed(seed + 1)
    swapped = t.clone()
    for channel in range(6):
        where = t == channel
        pick = torch.randint(0, len(alike[channel]), (int(where.sum()),), generator=generator)
        swapped[where] = torch.tensor(alike[channel])[pick]
    assert loss(x, swapped, folds).item() == loss(x, t, folds).item()


@every_form
@quick
@given(seed=st.integers(0, 10**6), annotated=annotations, part=st.sampled_from([0.1, 0.6, 1.0]))
def test_voxels_of_which_nothing_is_known_are_as_if_they_were_not_there(
    loss: Loss, seed: int, annotated: list[str], part: float
) -> None:
    """One sample, so that what is left of it is a shorter one."""
    folds = fold(OUTPUTS, annotated)[None]
    x, t = logits(seed, (1, 6, 60)), targets(seed, (1, 60))
    hidden = torch.rand(60, generator=torch.Generator().manual_seed(seed + 1)) < part
    t[0, hidden] = UNKNOWN
    x.requires_grad_()
    found = loss(x, t, folds)
    assert found.isfinite()
    found.backward()
    assert not x.grad[..., hidden].any()
    if not hidden.all():
        assert found.item() == pytest.approx(loss(x[..., ~hidden], t[:, ~hidden], folds).item())


@every_form
@quick
@given(seed=st.integers(0, 10**6), annotated=annotations, batch_dice=st.booleans())
def test_probability_may_move_among_channels_that_look_the_same(
    loss: Loss, seed: int, annotated: list[str], batch_dice: bool
) -> None:
    folds = fold(OUTPUTS, annotated)
    x, t = logits(seed), targets(seed)
    p = x.softmax(1)
    moved = p.clone()
    share = torch.rand(p.shape, generator=torch.Generator().manual_seed(seed)) + 0.01
    for group in folds.unique().tolist():
        members = torch.nonzero(folds == group).flatten()
        total = p[:, members].sum(1, keepdim=True)
        moved[:, members] = total * share[:, members] / share[:, members].sum(1, keepdim=True)
    both = folds.expand(2, 6)
    first = loss(p.log(), t, both, batch_dice=batch_dice)
    second = loss(moved.log(), t, both, batch_dice=batch_dice)
    assert second.item() == pytest.approx(first.item(), abs=1e-4)


@quick
@given(st.integers(0, 10**6))
def test_an_unlabelled_voxel_pushes_background_and_unknown_alike(seed: int) -> None:
    """Where the label says background, the unknown liver is not pushed towards background."""
    folds = fold(OUTPUTS, ("pancreas",)).expand(2, 6)
    x = logits(seed).requires_grad_()
    marginal_log_dice_ce(x, torch.zeros(2, 3, 4, 5, dtype=torch.int64), folds).backward()
    p = x.detach().softmax(1)
    # Relative to its probability, every channel of a fold is moved by the same amount.
    pull = x.grad / p
    assert torch.allclose(pull[:, 5], pull[:, 0], rtol=1e-3, atol=1e-5)
    assert torch.allclose(pull[:, 3], pull[:, 0], rtol=1e-3, atol=1e-5)
    assert (x.grad[:, 5] <= 1e-9).all(), "an unknown structure is never pushed down there"
    assert (x.grad[:, 1] >= -1e-9).all(), "the known one is"


def by_autograd(
    x: torch.Tensor, t: torch.Tensor, folds: torch.Tensor, smooth: float, log: bool
) -> torch.Tensor:
    """The loss written the long way: probabilities summed along the fold, every voxel kept."""
    losses = []
    for logit, seen, fold_of in zip(x.flatten(2), t.flatten(1), folds, strict=True):
        p = torch.zeros_like(logit).index_add(0, fold_of, logit.softmax(0))
        known = seen >= 0
        truth = functional.one_hot(fold_of[seen.clamp_min(0)], len(fold_of)).T * known
        entropy = -((p * truth).sum(0)[known]).log().mean()
        both, size = (p * truth).sum(1), (p * known).sum(1) + truth.sum(1)
        shown = [c for c in fold_of.unique().tolist() if c and (truth[c].any() or not log)]
        dice = ((2 * both + smooth) / (size + smooth))[shown]
        losses.append(entropy + (-dice.log() if log else 1 - dice).mean())
    return torch.stack(losses).mean()


@quick
@given(
    seed=st.integers(0, 10**6),
    annotated=annotations,
    log=st.booleans(),
    part=st.sampled_from([0.0, 0.3]),
)
def test_values_and_gradients_are_those_of_autograd(
    seed: int, annotated: list[str], log: bool, part: float
) -> None:
    known = fold(OUTPUTS, ["pancreas", *annotated])
    folds = torch.stack([known, torch.arange(6)])
    t = targets(seed).clone()
    t[torch.rand(t.shape, generator=torch.Generator().manual_seed(seed)) < part] = UNKNOWN
    # Both samples hold a structure that they annotate.
    t.flatten(1)[:, 0] = 1
    loss = marginal_log_dice_ce if log else marginal_dice_ce
    one, other = (logits(seed).requires_grad_() for _ in range(2))
    found, expected = loss(one, t, folds, 2.0), by_autograd(other, t, folds, 2.0, log)
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(one.grad, other.grad, atol=1e-6, rtol=1e-4)


@every_form
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("annotated", [OUTPUTS, ("pancreas", "kidney"), ("liver",)])
def test_extreme_logits_give_finite_losses_and_gradients(
    loss: Loss, size: float, annotated: tuple[str, ...]
) -> None:
    x = (logits(0).sign() * size).requires_grad_()
    found = loss(x, targets(0), fold(OUTPUTS, annotated).expand(2, 6))
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(x.grad).all()


def test_a_confidently_wrong_voxel_still_learns_through_a_fold() -> None:
    # Background and liver fold together; both have a probability of 1e-35 or so.
    x = torch.tensor([-80.0, 0.0, -81.0]).reshape(1, 3, 1).requires_grad_()
    folds = fold(("pancreas", "liver"), ("pancreas",))[None]
    loss = marginal_log_dice_ce(x, torch.tensor([[0]]), folds)
    loss.backward()
    assert loss.item() > 79
    assert x.grad is not None
    assert x.grad[0, 1, 0] > 0.9


def test_bf16_logits_are_taken_in_full_precision() -> None:
    x = logits(1).bfloat16()
    folds = fold(OUTPUTS, ("pancreas", "kidney")).expand(2, 6)
    found = marginal_log_dice_ce(x, targets(1), folds)
    assert found.dtype == torch.float32
    assert found.item() == marginal_log_dice_ce(x.float(), targets(1), folds).item()


@every_form
def test_nothing_annotated_costs_nothing(loss: Loss) -> None:
    x = logits(2).requires_grad_()
    found = loss(x, targets(2), torch.zeros(2, 6, dtype=torch.int64))
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert torch.allclose(x.grad, torch.zeros_like(x), atol=1e-6)


def test_plain_dice_by_hand_counts_what_is_absent() -> None:
    # Two voxels of P = (background, pancreas, liver); neither holds liver.
    p = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]]).T[None]
    target = torch.tensor([[0, 1]])
    known = fold(("pancreas", "liver"), ("pancreas", "liver"))[None]
    entropy = -(math.log(0.5) + math.log(0.7)) / 2
    pancreas, liver = (2 * 0.7 + 1) / (1 + 1 + 1), (0 + 1) / (0.3 + 1)
    found = marginal_dice_ce(p.log(), target, known, smooth=1)
    assert found.item() == pytest.approx(entropy + 1 - (pancreas + liver) / 2, abs=1e-6)
    background = (2 * 0.5 + 1) / (0.5 + 0.2 + 1 + 1)
    found = marginal_dice(p.log(), target, known, smooth=1)
    assert found.item() == pytest.approx(1 - (background + pancreas + liver) / 3, abs=1e-6)
    # Unknown liver folds onto the background, and has no Dice of its own.
    unknown = fold(("pancreas", "liver"), ("pancreas",))[None]
    entropy = -(math.log(0.7) + math.log(0.7)) / 2
    found = marginal_dice_ce(p.log(), target, unknown, smooth=1)
    assert found.item() == pytest.approx(entropy + 1 - pancreas, abs=1e-6)


@pytest.mark.parametrize("batch_dice", [False, True])
@quick
@given(seed=st.integers(0, 10**6))
def test_with_everything_annotated_they_are_monais(batch_dice: bool, seed: int) -> None:
    x, t = logits(seed), targets(seed)
    t[t == 3] = 0
    everything = torch.arange(6).expand(2, 6)
    # MONAI's smoothing is 1e-5 by default, as here.
    options = {"to_onehot_y": True, "softmax": True, "batch": batch_dice}
    theirs = DiceCELoss(include_background=False, **options)(x, t[:, None])
    found = marginal_dice_ce(x, t, everything, batch_dice=batch_dice)
    assert found.item() == pytest.approx(theirs.item(), abs=1e-6)
    theirs = DiceLoss(include_background=True, **options)(x, t[:, None])
    found = marginal_dice(x, t, everything, batch_dice=batch_dice)
    assert found.item() == pytest.approx(theirs.item(), abs=1e-6)


@every_form
@quick
@given(seed=st.integers(0, 10**6), first=annotations, second=annotations, batch=st.booleans())
def test_the_order_of_the_batch_is_irrelevant(
    loss: Loss, seed: int, first: list[str], second: list[str], batch: bool
) -> None:
    x, t = logits(seed), targets(seed)
    folds = torch.stack([fold(OUTPUTS, first), fold(OUTPUTS, second)])
    forth = loss(x, t, folds, batch_dice=batch)
    back = loss(x.flip(0), t.flip(0), folds.flip(0), batch_dice=batch)
    assert back.item() == pytest.approx(forth.item(), abs=1e-5)


@every_form
def test_without_smoothing_what_is_not_visible_has_no_part_in_the_gradient(loss: Loss) -> None:
    x = logits(3).requires_grad_()
    loss(x, targets(3), fold(OUTPUTS, ("pancreas",)).expand(2, 6), smooth=0).backward()
    assert torch.isfinite(x.grad).all()


def test_a_starving_structure_keeps_a_strong_gradient() -> None:
    """Where all is taken for background, Dice alone would pull with the probability as a factor."""
    pulls = []
    for low in (0.1, 0.001):
        p = torch.tensor([[1 - low, low]]).T[None].repeat(1, 1, 100)
        x = p.log().requires_grad_()
        target = (torch.arange(100) < 10).long()[None]
        marginal_log_dice_ce(x, target, torch.tensor([[0, 1]]), smooth=0).backward()
        pulls.append(-x.grad[0, 1, :10].sum().item())
    assert pulls[1] > 0.9 * pulls[0] > 0.5


def test_a_speck_pulls_less_with_a_larger_smooth() -> None:
    def pull(size: int, smooth: float) -> float:
        p = torch.tensor([[0.9, 0.1]]).T[None].repeat(1, 1, 1000)
        x = p.log().requires_grad_()
        target = (torch.arange(1000) < size).long()[None]
        marginal_log_dice_ce(x, target, torch.tensor([[0, 1]]), smooth).backward()
        return float(x.grad.abs().sum())

    # An organ is hardly touched.
    assert pull(5, 100) < 0.5 * pull(5, 1)
    assert pull(600, 100) > 0.5 * pull(600, 1)


def test_dice_loss_by_hand() -> None:
    p, t = torch.tensor([[0.5, 0.25], [1.0, 0.0]]), torch.tensor([[1, 0], [1, 1]])
    assert dice_loss(p, t).item() == pytest.approx(1 - (2 * 1.5 + 1) / (1.75 + 3 + 1))
    assert dice_loss(torch.zeros(4), torch.zeros(4)).item() == 0
    # Flattened over everything, not a mean over samples.
    assert dice_loss(p, t).item() == pytest.approx(dice_loss(p.flatten(), t.flatten()).item())
