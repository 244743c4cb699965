"""DoDNet's loss by hand, and that unknown channels are never looked at."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from imaging.errors import BadParameter
from training.losses import dice_loss, masked_dice_bce

quick = settings(derandomize=True, deadline=None, max_examples=40)
known_pairs = st.lists(st.booleans(), min_size=6, max_size=6)


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((3, 2, 2, 3, 4), generator=generator) * 2
    return x, torch.randint(0, 2, x.shape, generator=generator).float()


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_by_hand() -> None:
    # One sample; the organ is labelled, the tumor is not (-1, as the authors fill it).
    x = torch.tensor([[[logit(0.8), logit(0.3)], [5.0, -5.0]]])
    t = torch.tensor([[[1.0, 0.0], [-1.0, -1.0]]])
    dice = 2 * 0.8 / (0.8 + 0.3 + 1 + 1)
    entropy = -(math.log(0.8) + math.log(0.7)) / 2
    found = masked_dice_bce(x, t, torch.tensor([[True, False]]))
    assert found.item() == pytest.approx(1 - dice + entropy, abs=1e-6)


def test_known_and_empty_costs_a_whole_dice() -> None:
    x = torch.full((1, 1, 5), -40.0)
    found = masked_dice_bce(x, torch.zeros(1, 1, 5), torch.tensor([[True]]))
    assert found.item() == pytest.approx(1)


def test_samples_are_averaged_before_channels() -> None:
    x, t = draw(0)
    known = torch.tensor([[True, True], [True, False], [True, False]])

    def one(sample: int, channel: int) -> float:
        pick = slice(sample, sample + 1), slice(channel, channel + 1)
        return masked_dice_bce(x[pick], t[pick], torch.tensor([[True]])).item()

    organ = (one(0, 0) + one(1, 0) + one(2, 0)) / 3
    assert masked_dice_bce(x, t, known).item() == pytest.approx((organ + one(0, 1)) / 2, abs=1e-6)


@quick
@given(st.integers(0, 10**6))
def test_one_known_channel_is_plain_dice_and_bce(seed: int) -> None:
    x, t = (v[:1, :1] for v in draw(seed))
    # ``dice_loss`` has the smoothing in its numerator too.
    size = x.sigmoid().sum() + t.sum() + 1
    dice = 1 - dice_loss(x.sigmoid(), t) - 1 / size
    entropy = functional.binary_cross_entropy_with_logits(x, t)
    found = masked_dice_bce(x, t, torch.tensor([[True]]))
    assert found.item() == pytest.approx((1 - dice + entropy).item(), abs=1e-6)


@quick
@given(st.integers(0, 10**6), known_pairs, st.permutations(range(3)))
def test_unknown_channels_and_the_order_of_the_batch_change_nothing(
    seed: int, pairs: list[bool], order: list[int]
) -> None:
    x, t = draw(seed)
    known = torch.tensor(pairs).reshape(3, 2)
    first = masked_dice_bce(x, t, known)
    spoiled, wild = t.clone(), x.clone()
    spoiled[~known], wild[~known] = torch.nan, torch.inf
    wild.requires_grad_()
    found = masked_dice_bce(wild, spoiled, known)
    assert found.item() == first.item()
    found.backward()
    assert torch.equal(wild.grad.flatten(2).any(2), known)
    turned = masked_dice_bce(x[order], t[order], known[order])
    assert turned.item() == pytest.approx(first.item(), abs=1e-5)


def test_nothing_known_is_exactly_nothing() -> None:
    x, t = draw(1)
    x.requires_grad_()
    loss = masked_dice_bce(x, torch.full_like(t, -1), torch.zeros(3, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


@pytest.mark.parametrize(
    ("targets", "known"), [((3, 1, 2, 3, 4), (3, 2)), ((3, 2, 2, 3, 4), (2, 3)), ((3, 2), (3, 2))]
)
def test_shapes_that_do_not_fit_are_refused(
    targets: tuple[int, ...], known: tuple[int, ...]
) -> None:
    x, _ = draw(0)
    with pytest.raises(BadParameter, match="do not fit"):
        masked_dice_bce(x, torch.zeros(targets), torch.ones(known, dtype=torch.bool))


def test_the_logarithm_counts_what_is_there() -> None:
    logits = torch.zeros(1, 2, 4)
    targets = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    known = torch.tensor([[True, True]])
    # p is 1/2 everywhere: Dice (2 + 1) / (2 + 2 + 1), and nothing for the empty channel.
    expected = -math.log(3 / 5) / 2 + math.log(2)
    found = masked_dice_bce(logits, targets, known, log_dice=True)
    assert found.item() == pytest.approx(expected)
