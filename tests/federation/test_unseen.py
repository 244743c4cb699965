"""Pooled statistics are those of all activations taken together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.parts import Weights
from federation.unseen import pooled


def layer(mean: float, variance: float, weight: float = 1.0) -> Weights:
    values = {"a.weight": weight, "a.running_mean": mean, "a.running_var": variance}
    return {name: np.array([value], np.float32) for name, value in values.items()}


def test_pooled_by_hand() -> None:
    # Weighted 3 to 1: mean 3 of 2 and 6; variance (3 * 1 + 1 * 5) / 4 + (3 * 1 + 1 * 9) / 4.
    found = pooled([layer(2, 1, weight=1), layer(6, 5, weight=2)], [30, 10])
    assert {name: float(value[0]) for name, value in found.items()} == {
        "a.weight": 1.25,
        "a.running_mean": 3,
        "a.running_var": 5,
    }
    assert all(value.dtype == np.float32 for value in found.values())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_pooled_is_of_all_activations(cases: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    # 20 activations a case, of 4 channels, every site with a mean and a spread of its own.
    sites = [rng.normal(rng.uniform(-3, 3, 4), rng.uniform(0.5, 2, 4), (20 * n, 4)) for n in cases]
    norms = [
        {
            "n.running_mean": x.mean(0).astype(np.float32),
            "n.running_var": x.var(0).astype(np.float32),
        }
        for x in sites
    ]
    found = pooled(norms, cases)
    together = np.concatenate(sites)
    assert found["n.running_mean"] == pytest.approx(together.mean(0), rel=1e-5, abs=1e-5)
    assert found["n.running_var"] == pytest.approx(together.var(0), rel=1e-5)


def test_layers_without_statistics_have_their_mean() -> None:
    norms = [{"n.bias": np.array([[b]], np.float32)} for b in (1, 4)]
    found = pooled(norms, [2, 1])
    assert found["n.bias"].tolist() == [[2]]
    assert found.keys() == {"n.bias"}


def test_one_site_keeps_its_own() -> None:
    own = layer(0.1, 0.7)
    assert all(np.array_equal(value, own[name]) for name, value in pooled([own], [7]).items())
