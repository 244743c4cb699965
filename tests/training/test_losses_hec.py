"""The loss of hierarchical evaluation classes, by hand and against two-class cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from imaging.errors import BadParameter
from training.losses import UNKNOWN, fold, hec_cross_entropy, hec_groups

OUTPUTS = ("kidney", "kidney_tumor", "kidney_cyst")
GROUPS = hec_groups(OUTPUTS)
KITS19 = ("kidney", "kidney_tumor")
quick = settings(derandomize=True, deadline=None, max_examples=40)


def draw(seed: int, samples: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((samples, 4, 2, 3, 4), generator=generator) * 3
    return logits, torch.randint(0, 4, (samples, 2, 3, 4), generator=generator)


def folds(*annotated: tuple[str, ...]) -> torch.Tensor:
    return torch.stack([fold(OUTPUTS, known) for known in annotated])


def test_groups_are_the_papers() -> None:
    assert GROUPS == (((1, 2, 3), 0.1), ((2, 3), 0.3))
    # Channels follow the model, and other organs stay outside.
    other = ("liver", "kidney_tumor", "pancreas", "kidney")
    assert hec_groups(other) == (((2, 4), 0.1), ((2,), 0.3))
    assert hec_groups(OUTPUTS, (1.0, 0.0)) == (((1, 2, 3), 1.0), ((2, 3), 0.0))


@pytest.mark.parametrize("outputs", [(), ("kidney",), ("kidney_tumor",), ("liver", "pancreas")])
def test_a_model_without_kidneys_and_masses_has_no_groups(outputs: tuple[str, ...]) -> None:
    with pytest.raises(BadParameter, match="among the outputs"):
        hec_groups(outputs)


def test_by_hand() -> None:
    # Voxels of P = (background, kidney, tumor, cyst); the labels say kidney, then tumor.
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]).T[None]
    kidney = -(math.log(0.6) + math.log(0.9)) / 2
    masses = -(math.log(0.7) + math.log(0.7)) / 2
    found = hec_cross_entropy(p.log(), torch.tensor([[1, 2]]), folds(OUTPUTS), GROUPS)
    assert found.item() == pytest.approx(0.1 * kidney + 0.3 * masses, abs=1e-6)


def test_voxels_of_which_nothing_is_known_are_left_out() -> None:
    x, t = draw(3, samples=1)
    t[0, 0] = UNKNOWN
    known = folds(OUTPUTS)
    found = hec_cross_entropy(x, t, known, GROUPS)
    assert found.item() == pytest.approx(
        hec_cross_entropy(x[:, :, 1:], t[:, 1:], known, GROUPS).item()
    )
    assert hec_cross_entropy(x, torch.full_like(t, UNKNOWN), known, GROUPS).item() == 0


def test_undecidable_groups_are_left_out_by_hand() -> None:
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]).T[None].repeat(2, 1, 1)
    target = torch.tensor([[1, 2], [1, 1]])
    # The second case knows kidneys alone, so its voxels may be masses or not.
    found = hec_cross_entropy(p.log(), target, folds(OUTPUTS, ("kidney",)), GROUPS)
    kidney = -(math.log(0.6) + math.log(0.9)) / 2
    masses = -(math.log(0.7) + math.log(0.7)) / 2
    assert found.item() == pytest.approx(0.1 * kidney + 0.3 * masses, abs=1e-6)


@pytest.mark.parametrize(
    ("annotated", "decided"),
    [
        (OUTPUTS, (True, True)),
        # Cysts look like kidney there, and so do masses in part.
        (KITS19, (True, False)),
        (("kidney",), (True, False)),
        # Cysts look like background.
        (("kidney_tumor",), (False, False)),
        (("kidney_tumor", "kidney_cyst"), (False, True)),
        ((), (False, False)),
    ],
)
def test_which_groups_a_case_decides(
    annotated: tuple[str, ...], decided: tuple[bool, bool]
) -> None:
    x, t = draw(0, samples=1)
    x.requires_grad_()
    for group, expected in zip(GROUPS, decided, strict=True):
        loss = hec_cross_entropy(x, t, folds(annotated), [group])
        (gradient,) = torch.autograd.grad(loss, x)
        assert (loss.item() > 0) == expected
        assert bool(gradient.any()) == expected


@quick
@given(st.integers(0, 10**6))
def test_a_group_of_one_channel_of_two_is_cross_entropy(seed: int) -> None:
    x, t = draw(seed)
    x, t = x[:, :2], t % 2
    found = hec_cross_entropy(x, t, torch.arange(2).expand(2, 2), [((1,), 0.7)])
    assert found.item() == pytest.approx(0.7 * functional.cross_entropy(x, t).item(), abs=1e-6)


@quick
@given(seed=st.integers(0, 10**6), second=st.sampled_from([OUTPUTS, KITS19, ("kidney",), ()]))
def test_unknown_voxels_and_the_order_of_the_batch_change_nothing(
    seed: int, second: tuple[str, ...]
) -> None:
    x, t = draw(seed)
    known = folds(OUTPUTS, second)
    first = hec_cross_entropy(x, t, known, GROUPS).item()
    # What a case does not know may be named by its own channel or by the one it looks like.
    seen = known.gather(1, t.flatten(1)).reshape(t.shape)
    assert hec_cross_entropy(x, seen, known, GROUPS).item() == first
    turned = hec_cross_entropy(x.flip(0), t.flip(0), known.flip(0), GROUPS).item()
    assert turned == pytest.approx(first, abs=1e-6)


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    x, t = draw(1)
    x = (x.sign() * 1e30).requires_grad_()
    loss = hec_cross_entropy(x, t, folds(OUTPUTS, ("kidney",)), GROUPS)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("channels", [(), (4,), (-1, 2), (0, 1, 2, 3)])
def test_groups_that_part_nothing_are_refused(channels: tuple[int, ...]) -> None:
    x, t = draw(0)
    with pytest.raises(BadParameter, match="channels 0 to 3"):
        hec_cross_entropy(x, t, folds(OUTPUTS, OUTPUTS), [(channels, 1.0)])
