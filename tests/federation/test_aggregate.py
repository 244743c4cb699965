"""The mean of updates: by hand, by its properties, and what must not join it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from federation.aggregate import Average
from federation.parts import Rows, Weights
from imaging.errors import UpdateRefused

ALL = frozenset(range(3))
SHAPES = {"body": (2, 2), "scale": (), "head": (3, 2), "up": (4, 3, 2)}
ROWS = {"head": Rows(0, (0, 1, 2)), "up": Rows(1, (2, 0, 1))}
FLOATS = st.floats(-1e6, 1e6, width=32)
UPDATES = st.fixed_dictionaries(
    {name: arrays(np.float32, shape, elements=FLOATS) for name, shape in SHAPES.items()}
)
LABELLED = st.sets(st.sampled_from(sorted(ALL))).map(frozenset)
SITES = st.lists(st.tuples(UPDATES, st.integers(1, 10_000), LABELLED), min_size=1, max_size=5)

Site = tuple[Weights, float, frozenset[int]]


def mean(sites: Sequence[Site], rows: dict[str, Rows] | None = None) -> Weights:
    average = Average(SHAPES, rows)
    for update, weight, labelled in sites:
        average.add(update, weight, labelled)
    assert average.sites == len(sites)
    return average.result()


def full(value: float) -> Weights:
    return {name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()}


def test_the_weighted_mean_by_hand() -> None:
    # Three times 1 and once 5 are 8, a quarter of which is 2.
    result = mean([(full(1), 3, ALL), (full(5), 1, frozenset())])
    assert result.keys() == SHAPES.keys()
    for name, value in result.items():
        assert value.dtype == np.float32
        assert value.shape == SHAPES[name]
        assert np.all(value == 2)


def test_channels_are_averaged_over_those_who_label_them() -> None:
    # Channel 0 (the background): both; 1: the first alone; 2: nobody.
    sites = [(full(1), 3, frozenset({0, 1})), (full(5), 1, frozenset({0}))]
    result = mean(sites, ROWS)
    assert result["body"].tolist() == [[2, 2], [2, 2]]
    assert result["scale"] == 2
    assert result["head"].tolist() == [[2, 2], [1, 1], [0, 0]]
    # Of the transposed convolution the slices of axis 1 serve channels 2, 0 and 1.
    assert np.all(result["up"] == np.array([0, 2, 1])[None, :, None])


def test_a_channel_of_one_site_is_that_sites_whatever_its_weight() -> None:
    sites = [(full(7), 1, frozenset({0, 1})), (full(-9), 1000, frozenset({0, 2}))]
    result = mean(sites, ROWS)
    assert np.all(result["head"][1] == 7)
    assert np.all(result["head"][2] == -9)


@given(SITES, st.randoms(use_true_random=False))
def test_the_order_of_sites_does_not_matter(sites: list[Site], random: object) -> None:
    mixed = list(sites)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = mean(sites, ROWS), mean(mixed, ROWS)
    for name in SHAPES:
        largest = max(float(np.abs(update[name]).max()) for update, _, _ in sites)
        # A float32 rounds to 6e-8 of itself; what float64 loses is far below.
        assert np.allclose(one[name], other[name], rtol=1e-7, atol=1e-13 * largest)


@given(UPDATES, st.lists(st.integers(1, 10_000), min_size=1, max_size=6))
def test_equal_updates_are_a_fixed_point(update: Weights, weights: list[int]) -> None:
    result = mean([(update, weight, ALL) for weight in weights], ROWS)
    for name in SHAPES:
        assert np.array_equal(result[name], update[name])


@given(SITES)
def test_the_mean_lies_between_the_updates(sites: list[Site]) -> None:
    result = mean(sites)
    for name in SHAPES:
        every = np.stack([update[name] for update, _, _ in sites])
        assert np.all(result[name] >= every.min(0))
        assert np.all(result[name] <= every.max(0))


@given(SITES)
def test_rows_that_all_label_are_a_plain_mean(sites: list[Site]) -> None:
    everyone = [(update, weight, ALL) for update, weight, _ in sites]
    plain, aware = mean(everyone), mean(everyone, ROWS)
    assert all(np.array_equal(plain[name], aware[name]) for name in SHAPES)


def test_without_sites_nothing_changes() -> None:
    assert all(not value.any() for value in mean([], ROWS).values())


def spoiled(name: str, value: NDArray[np.float32] | None) -> Weights:
    update = {**full(1), name: value}
    return {n: v for n, v in update.items() if v is not None}


@pytest.mark.parametrize(
    ("update", "weight", "message"),
    [
        (spoiled("up", None), 1, "lacks or adds 1 tensors, 'up'"),
        (spoiled("other", np.zeros(1, np.float32)), 1, "lacks or adds 1 tensors, 'other'"),
        ({}, 1, "lacks or adds 4 tensors"),
        (spoiled("up", np.zeros((4, 3), np.float32)), 1, r"up is \(4, 3\), not \(4, 3, 2\)"),
        (spoiled("up", np.zeros((1, 1, 1), np.float32)), 1, r"not \(4, 3, 2\)"),
        (spoiled("up", np.full((4, 3, 2), np.nan, np.float32)), 1, "up is not finite"),
        (spoiled("up", np.full((4, 3, 2), -np.inf, np.float32)), 1, "up is not finite"),
        (full(1), 0, "weight must be positive, not 0"),
        (full(1), -1, "weight must be positive"),
        (full(1), float("nan"), "weight must be positive"),
        (full(1), float("inf"), "weight must be positive"),
    ],
)
def test_what_must_not_join_leaves_nothing_behind(
    update: Weights, weight: float, message: str
) -> None:
    average = Average(SHAPES, ROWS)
    average.add(full(2), 1, ALL)
    with pytest.raises(UpdateRefused, match=message):
        average.add(update, weight, ALL)
    assert average.sites == 1
    average.add(full(4), 1, ALL)
    for value in average.result().values():
        assert np.all(value == 3)


def test_memory_does_not_grow_with_the_number_of_sites() -> None:
    shapes = {"a": (1000, 100), "b": (100, 100)}

    def peak(sites: int) -> int:
        tracemalloc.start()
        average = Average(shapes)
        for site in range(sites):
            update = {name: np.full(s, site, np.float32) for name, s in shapes.items()}
            average.add(update, 1, ALL)
        average.result()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(40) < 1.1 * peak(2)
