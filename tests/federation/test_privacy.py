"""Privacy: the clip and the noise by their numbers, epsilon against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import ndtr

from federation.job import Privacy
from federation.privacy import protect, statement
from imaging.errors import BadParameter, UpdateRefused

Update = dict[str, NDArray[np.float32]]


def update(norm: float, seed: int = 0) -> Update:
    """Two tensors, the second a scalar, of a joint norm."""
    values = np.random.default_rng(seed).normal(size=25)
    values *= norm / np.linalg.norm(values)
    return {
        "a": values[:24].reshape(4, 6).astype(np.float32),
        "b": np.asarray(values[24], np.float32),
    }


def norm(values: Update) -> float:
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in values.values()))


def test_a_long_update_is_shortened_in_its_direction() -> None:
    found = protect(
        {"x": np.array([3, 0], np.float32), "y": np.array([[4]], np.float32)}, Privacy(1, 0), rng()
    )
    assert found["x"] == pytest.approx([0.6, 0])
    assert found["y"] == pytest.approx(np.array([[0.8]]))


def test_a_short_update_without_noise_stays() -> None:
    values = update(0.9)
    found = protect(values, Privacy(1, 0), rng())
    assert all(np.array_equal(found[name], values[name]) for name in values)
    zero = {"a": np.zeros(3, np.float32)}
    assert not protect(zero, Privacy(1, 0), rng())["a"].any()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_no_update_is_longer_than_the_clip(length: float, clip: float) -> None:
    found = protect(update(length), Privacy(clip, 0), rng())
    assert norm(found) <= min(length, clip) * (1 + 1e-6)
    assert all(a.dtype == np.float32 and a.shape == update(1)[n].shape for n, a in found.items())


def test_the_noise_is_normal_of_the_stated_deviation() -> None:
    privacy = Privacy(clip=2.0, noise=1.5)
    found = protect({"a": np.zeros((200, 500), np.float32)}, privacy, rng(3))["a"]
    assert found.std() == pytest.approx(3.0, rel=0.01)
    assert found.mean() == pytest.approx(0.0, abs=0.05)
    assert (np.abs(found) < 3).mean() == pytest.approx(0.6827, abs=0.005)


def test_noise_depends_on_the_generator_alone() -> None:
    privacy = Privacy(1.0, 1.0)
    values = update(5)
    turned = dict(reversed(values.items()))
    first, second = protect(values, privacy, rng(1)), protect(turned, privacy, rng(1))
    other = protect(values, privacy, rng(2))
    for name in values:
        assert np.array_equal(first[name], second[name])
        assert not np.array_equal(first[name], other[name])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_does_not_leave(value: float) -> None:
    with pytest.raises(UpdateRefused, match="'b'"):
        protect(
            {"a": np.zeros(2, np.float32), "b": np.array([value], np.float32)}, Privacy(1, 1), rng()
        )


def exact(multiplier: float, delta: float) -> float:
    """Epsilon of one Gaussian mechanism (Balle and Wang 2018, theorem 8)."""
    half = 1 / (2 * multiplier)

    def over(epsilon: float) -> float:
        tail = ndtr(half - epsilon * multiplier)
        return float(tail - math.exp(epsilon) * ndtr(-half - epsilon * multiplier) - delta)

    return float(brentq(over, 0, 200))


def by_renyi(multiplier: float, delta: float) -> float:
    """Epsilon through Rényi divergence order / (2 multiplier²), at its best order."""

    def at(log_order: float) -> float:
        order = 1 + math.exp(log_order)
        return float(
            order / (2 * multiplier**2)
            + math.log1p(-1 / order)
            - (math.log(delta) + math.log(order)) / (order - 1)
        )

    return float(minimize_scalar(at, bounds=(-10, 12), method="bounded").fun)


@pytest.mark.parametrize("rounds", [1, 10, 100])
@pytest.mark.parametrize("noise", [1.0, 4.0, 20.0])
def test_epsilon_is_that_of_gaussian_noise(noise: float, rounds: int) -> None:
    # So many rounds are one of a noise smaller by their root; two updates are two clips apart.
    multiplier = noise / 2 / math.sqrt(rounds)
    epsilon, _ = statement(Privacy(1.0, noise), rounds)
    assert epsilon == pytest.approx(by_renyi(multiplier, 1e-5), rel=1e-3)
    if multiplier > 0.2:  # beyond, exp(epsilon) leaves the closed form no digits
        assert exact(multiplier, 1e-5) <= epsilon <= 1.2 * exact(multiplier, 1e-5)


@given(st.floats(0.1, 100), st.integers(1, 300), st.floats(1e-8, 1e-2), st.floats(1e-3, 1e3))
def test_epsilon_rises_with_rounds_and_falls_with_noise(
    noise: float, rounds: int, delta: float, clip: float
) -> None:
    epsilon, _ = statement(Privacy(clip, noise, delta), rounds)
    assert 0 < epsilon < math.inf
    assert statement(Privacy(clip, noise, delta), rounds + 1)[0] > epsilon
    assert statement(Privacy(clip, noise * 1.1, delta), rounds)[0] < epsilon
    assert statement(Privacy(clip, noise, delta / 2), rounds)[0] > epsilon
    assert statement(Privacy(clip * 2, noise, delta), rounds)[0] == epsilon


def test_the_sentence_says_what_is_protected() -> None:
    epsilon, text = statement(Privacy(1.0, 8.0), 10)
    assert f"epsilon {epsilon:.3g} at delta 1e-05" in text
    assert "all 10 rounds" in text
    assert "One patient" in text


def test_no_noise_is_no_privacy() -> None:
    epsilon, text = statement(Privacy(1.0, 0.0), 10)
    assert epsilon == math.inf
    assert "infinite" in text


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_what_has_not_left_is_not_told(noise: float) -> None:
    assert statement(Privacy(1.0, noise), 0) == (0.0, "No update has left a site.")
    with pytest.raises(BadParameter, match="not -1"):
        statement(Privacy(1.0, noise), -1)
