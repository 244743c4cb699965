"""Tests and intervals against numbers worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging.errors import BadParameter
from training.statistics import (
    bootstrap_difference,
    bootstrap_interval,
    holm,
    paired_wilcoxon,
)

quick = settings(derandomize=True, deadline=None, max_examples=40)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_wilcoxon_by_hand() -> None:
    # Six pairs, all in favour of a: one of 2^6 equally likely signs, on both sides.
    a, b = [0.9, 0.8, 0.85, 0.7, 0.95, 0.6], [0.89, 0.78, 0.82, 0.66, 0.90, 0.54]
    assert paired_wilcoxon(a, b) == pytest.approx(2 / 64)
    assert paired_wilcoxon(b, a) == pytest.approx(2 / 64)


def test_wilcoxon_is_the_count_of_all_signs() -> None:
    a, b = [5.0, 1.0, 7.5, 2.0, 9.0], [4.0, 3.0, 3.0, 1.5, 6.0]
    ranks, negative = (2, 3, 5, 1, 4), 3
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=5)
    ]
    extreme = sum(s <= negative or s >= 15 - negative for s in sums)
    assert paired_wilcoxon(a, b) == pytest.approx(extreme / 32)


def test_equal_pairs_give_1_and_are_dropped_otherwise() -> None:
    a, b = [0.9, 0.8, 0.85, 0.7, 0.95, 0.6], [0.89, 0.78, 0.82, 0.66, 0.90, 0.54]
    assert paired_wilcoxon(a, a) == 1
    assert paired_wilcoxon([0.5], [0.5]) == 1
    equal = [0.5] * 3
    # With zeros the rest is no longer counted out in full, so the value is near, not the same.
    assert paired_wilcoxon(a + equal, b + equal) == pytest.approx(2 / 64, abs=0.005)


def test_last_bits_do_not_break_ties() -> None:
    # 0.3 - 0.2 and 0.8 - 0.7 differ in their last bits, 3/8 - 2/8 and 7/8 - 6/8 do not.
    tied = paired_wilcoxon([0.3, 0.8, 0.5, 0.9], [0.2, 0.7, 0.6, 0.4])
    assert tied == paired_wilcoxon([3 / 8, 7 / 8, 4 / 8, 1.0], [2 / 8, 6 / 8, 5 / 8, 0.0])


def test_holm_by_hand() -> None:
    # Sorted: .01 x 4, .02 x 3, .03 x 2, .5 x 1; each at least as large as the one before.
    found = holm([0.03, 0.01, 0.5, 0.02])
    assert found == pytest.approx((0.06, 0.04, 0.5, 0.06))
    assert holm([0.6, 0.7]) == (1, 1)
    assert holm([0.04]) == (0.04,)
    assert holm([]) == ()


@quick
@given(p_values, st.randoms(use_true_random=False))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(
    p: list[float], random: object
) -> None:
    found = holm(p)
    for raw, corrected in zip(p, found, strict=True):
        assert raw <= corrected <= min(1, raw * len(p))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()
    assert holm(p[::-1]) == found[::-1]


def test_the_interval_of_equal_values_is_a_point() -> None:
    assert bootstrap_interval([0.25, 0.25, 0.25], seed=0) == (0.25, 0.25)
    assert bootstrap_difference([1.0, 2.0, 3.0], [0.5, 1.5, 2.5], seed=0) == (0.5, 0.5)


def test_the_interval_of_two_values_by_hand() -> None:
    # Means 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 1.0], seed=1, level=0.95) == (0, 1)
    assert bootstrap_interval([0.0, 1.0], seed=1, level=0.40) == (0.5, 0.5)
    assert bootstrap_interval([0.0, 1.0], seed=1, level=0.60) == (0, 1)


def test_the_interval_is_near_that_of_normal_theory() -> None:
    values = np.random.default_rng(4).normal(3, 2, 400)
    low, high = bootstrap_interval(values.tolist(), seed=5)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_pairs_are_drawn_together() -> None:
    rng = np.random.default_rng(6)
    hard = rng.normal(0, 10, 50)
    a, b = hard + rng.normal(1, 0.1, 50), hard
    low, high = bootstrap_difference(a.tolist(), b.tolist(), seed=7)
    assert 0.9 < low < high < 1.1


def test_the_seed_decides() -> None:
    values = np.random.default_rng(3).random(30).tolist()
    first = bootstrap_interval(values, seed=8)
    assert bootstrap_interval(values, seed=8) == first
    assert bootstrap_interval(values, seed=9) != first


@pytest.mark.parametrize("b", [[], [0.1], [0.1, 0.2, 0.3]])
def test_pairs_of_unequal_number_are_refused(b: list[float]) -> None:
    for compare in (paired_wilcoxon, lambda x, y: bootstrap_difference(x, y, 0)):
        with pytest.raises(BadParameter, match="the same cases"):
            compare([0.1, 0.2], b)


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [float("inf")]])
def test_scores_that_are_none_are_refused(values: list[float]) -> None:
    with pytest.raises(BadParameter, match="finite"):
        bootstrap_interval(values, 0)
    with pytest.raises(BadParameter, match="finite"):
        paired_wilcoxon(values, values)


@pytest.mark.parametrize("level", [0, 1, 95, float("nan")])
def test_a_level_outside_0_to_1_is_refused(level: float) -> None:
    with pytest.raises(BadParameter, match="level"):
        bootstrap_interval([0.1], 0, level)


@pytest.mark.parametrize("p", [[-0.1], [0.5, 1.1], [float("nan")]])
def test_p_values_outside_0_to_1_are_refused(p: list[float]) -> None:
    with pytest.raises(BadParameter, match="P values"):
        holm(p)
