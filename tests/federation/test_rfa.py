"""The geometric median: by hand, against a minority that lies, and where it is only a mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.aggregate import Aggregate
from federation.parts import Rows, Weights
from federation.strategies import options_of, strategy
from federation.strategies.rfa import geometric_median
from imaging.errors import UpdateRefused

ALL = frozenset(range(3))
SHAPES = {"body": (40, 50), "scale": (), "head": (3, 100)}
ROWS = {"head": Rows(0, (0, 1, 2))}
HONEST = 3


def aggregate(name: str = "rfa", rows: dict[str, Rows] | None = None) -> Aggregate:
    return strategy(name).aggregate(SHAPES, rows or {}, options_of(name, {}))


def update(rng: np.random.Generator, truth: Weights) -> Weights:
    """What an honest site says: the truth and as much of its own."""
    return {
        name: (value + rng.normal(0, 1, value.shape)).astype(np.float32)
        for name, value in truth.items()
    }


def error(name: str, factor: float, weight: float = 1.0) -> float:
    """How far a result lies from the truth, in sizes of the truth, where one of four lies."""
    rng = np.random.default_rng(0)
    truth = {n: rng.normal(0, 1, shape).astype(np.float32) for n, shape in SHAPES.items()}
    made = aggregate(name)
    for _ in range(HONEST):
        made.add(update(rng, truth), 8.0, ALL)
    lie = {n: (factor * v).astype(np.float32) for n, v in update(rng, truth).items()}
    made.add(lie, 8.0 * weight, ALL)
    assert made.sites == HONEST + 1
    result = made.result()
    assert all(v.dtype == np.float32 and v.shape == SHAPES[n] for n, v in result.items())
    return float(np.linalg.norm(result["body"] - truth["body"]) / np.linalg.norm(truth["body"]))


@pytest.mark.parametrize("factor", [10.0, -10.0, -1.0, 0.0, 1e6, 1e30])
@pytest.mark.parametrize("weight", [1.0, 1e6])
def test_one_of_four_does_not_move_it_far(factor: float, weight: float) -> None:
    # Three honest sites alone are 0.58 away, the noise of a mean of three.
    assert error("rfa", factor, weight) < 0.8


def test_the_mean_is_moved_by_one() -> None:
    """What the test above must find is found."""
    assert error("fedavg", 10.0) > 2
    assert error("fedavg", 1.0, weight=1e6) > 0.9
    assert error("rfa", 1.0) == pytest.approx(error("fedavg", 1.0), abs=0.05)


def test_by_hand() -> None:
    # In a line the middle one; in a triangle with equal sides its centre.
    line = np.array([[0.0], [1.0], [100.0]])
    assert geometric_median(line, np.ones(3), 16) == pytest.approx([1.0])
    corners = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3**0.5]])
    assert geometric_median(corners, np.ones(3), 64) == pytest.approx([1.0, 3**-0.5], abs=1e-6)
    # Of two the weighted mean, of one itself.
    assert geometric_median(line[:2], np.array([1.0, 3.0]), 16) == pytest.approx([0.75])
    assert geometric_median(line[2:], np.ones(1), 16) == pytest.approx([100.0])


POINTS = st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), min_size=3, max_size=6)


@given(POINTS)
def test_no_point_tried_is_better(points: list[list[float]]) -> None:
    given_points = np.array(points)
    found = geometric_median(given_points, np.ones(len(points)), 200)

    def far(place: np.ndarray) -> float:
        return float(np.linalg.norm(given_points - place, axis=1).sum())

    tried = [*given_points, given_points.mean(axis=0)]
    # Smoothed steps come near a point that is itself the median, slowly.
    assert far(found) <= min(map(far, tried)) * 1.01 + 1e-3


def test_a_structure_is_judged_by_those_who_label_it() -> None:
    made = aggregate(rows=ROWS)
    for value, labelled in ((1, ALL), (2, ALL), (3, ALL - {2}), (1000, ALL - {2})):
        said = {n: np.full(shape, value, np.float32) for n, shape in SHAPES.items()}
        made.add(said, 1.0, labelled)
    result = made.result()
    # Four say something of rows 0 and 1; of row 2 two, whose mean it is.
    assert np.all((result["head"][:2] > 1.5) & (result["head"][:2] < 3.5))
    assert result["head"][2] == pytest.approx(1.5)
    nobody = aggregate(rows=ROWS)
    nobody.add({n: np.ones(s, np.float32) for n, s in SHAPES.items()}, 1.0, frozenset())
    assert not nobody.result()["head"].any()


def test_what_must_not_join_is_refused_and_not_kept() -> None:
    made = aggregate()
    good = {n: np.ones(shape, np.float32) for n, shape in SHAPES.items()}
    made.add(good, 1.0, ALL)
    for value in (np.nan, np.inf):
        with pytest.raises(UpdateRefused, match="not finite"):
            made.add({**good, "scale": np.float32(value).reshape(())}, 1.0, ALL)
    assert made.sites == 1
    assert made.result()["body"] == pytest.approx(1.0)
