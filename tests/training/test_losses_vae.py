"""The VAE's losses by hand and against torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact

from imaging.errors import BadParameter
from training.losses import kl_divergence, reconstruction_l2


def test_kl_by_hand() -> None:
    # Means 1 and 0, standard deviations 1 and 2.
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(4)]])
    expected = 0.5 * ((1 + 1 - 0 - 1) + (0 + 4 - math.log(4) - 1)) / 2
    assert kl_divergence(mean, log_variance).item() == pytest.approx(expected)


def test_kl_of_the_prior_is_nothing() -> None:
    assert kl_divergence(torch.zeros(2, 128), torch.zeros(2, 128)).item() == 0


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_kl_is_torchs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance = torch.randn((2, 3, 8), generator=generator)
    theirs = exact(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
    assert kl_divergence(mean, log_variance).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_l2_by_hand() -> None:
    image, found = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [3.0, 7.0]])
    assert reconstruction_l2(image, found).item() == (0 + 4 + 0 + 9) / 4
    assert reconstruction_l2(image, image).item() == 0


def test_half_precision_does_not_overflow() -> None:
    image = torch.full((4,), 400.0, dtype=torch.float16)
    assert reconstruction_l2(image, -image).item() == 640_000


def test_unequal_shapes_are_refused() -> None:
    for loss in (kl_divergence, reconstruction_l2):
        with pytest.raises(BadParameter, match=r"\(2, 1\) and \(2, 3\) differ"):
            loss(torch.zeros(2, 1), torch.zeros(2, 3))
