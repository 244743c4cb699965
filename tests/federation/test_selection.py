"""The choice of the global model, by hand for each rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from federation.job import RULES
from federation.message import pack, unpack
from federation.parts import Weights
from federation.selection import Candidates

CASES = {"c1": 30, "c2": 10}


def weights(value: float) -> Weights:
    return {"w": np.full(3, value, np.float32)}


def scored(folder: Path, *dice: dict[str, float]) -> Candidates:
    """Candidates round-1, round-2 and so on with a Dice by site."""
    candidates = Candidates(folder)
    for number, found in enumerate(dice, 1):
        name = candidates.name(number)
        candidates.add(name, weights(number))
        for site, value in found.items():
            candidates.scored(name, site, {"kidney": value}, {})
    return candidates


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        # By cases: 0.75 * 0.9 + 0.25 * 0.2 = 0.725, 0.6, 0.675.
        ("mean", "round-1"),
        # Equal: 0.55, 0.6, 0.65.
        ("equal", "round-3"),
        # The worse site: 0.2, 0.6, 0.6; of equals the later.
        ("worst", "round-3"),
    ],
)
def test_rules_by_hand(tmp_path: Path, rule: str, chosen: str) -> None:
    candidates = scored(
        tmp_path, {"c1": 0.9, "c2": 0.2}, {"c1": 0.6, "c2": 0.6}, {"c1": 0.7, "c2": 0.6}
    )
    matrix = candidates.matrix(CASES, rule)
    assert (matrix.chosen, matrix.rule) == (chosen, rule)
    assert matrix.candidates == ("round-1", "round-2", "round-3")
    assert matrix.sites == ("c1", "c2")
    assert matrix.scores["round-1"] == {"c1": {"kidney": 0.9}, "c2": {"kidney": 0.2}}
    assert matrix.cases == CASES


def test_a_site_counts_its_structures_alike(tmp_path: Path) -> None:
    candidates = scored(tmp_path, {}, {})
    candidates.scored("round-1", "c1", {"kidney": 0.9, "pancreas": 0.1}, {})
    candidates.scored("round-2", "c1", {"kidney": 0.6, "pancreas": 0.5}, {})
    assert candidates.matrix(CASES, "mean").chosen == "round-2"


@pytest.mark.parametrize("rule", RULES)
def test_of_equals_the_later_is_chosen(tmp_path: Path, rule: str) -> None:
    candidates = scored(tmp_path, {"c1": 0.4}, {"c1": 0.5}, {"c1": 0.5}, {"c1": 0.3})
    assert candidates.matrix(CASES, rule).chosen == "round-3"


@pytest.mark.parametrize("rule", RULES)
def test_who_did_not_score_all_does_not_judge(tmp_path: Path, rule: str) -> None:
    # The second site is against the first candidate, and did not see the other.
    candidates = scored(tmp_path, {"c1": 0.6, "c2": 0.0}, {"c1": 0.5})
    matrix = candidates.matrix(CASES, rule)
    assert matrix.chosen == "round-1"
    assert matrix.sites == ("c1", "c2")
    assert candidates.wanted("c1") == []
    assert candidates.wanted("c2") == ["round-2"]
    assert candidates.wanted("c3") == ["round-1", "round-2"]


@pytest.mark.parametrize("rule", RULES)
def test_without_a_judge_the_last_is_chosen(tmp_path: Path, rule: str) -> None:
    candidates = scored(tmp_path, {"c1": 0.9}, {"c2": 0.1}, {})
    assert candidates.matrix(CASES, rule).chosen == "round-3"
    # A site without cases to validate on answers, with nothing.
    for name in candidates.names:
        candidates.scored(name, "c3", {}, {})
    assert candidates.matrix(CASES, rule).chosen == "round-3"


def test_a_candidate_that_is_made_again_has_no_scores(tmp_path: Path) -> None:
    candidates = scored(tmp_path, {"c1": 0.9}, {"c1": 0.1})
    candidates.scored("round-1", "c1", {"kidney": 0.9}, weights(1))
    candidates.add("round-1", weights(8))
    assert candidates.names == ("round-1", "round-2")
    assert candidates.wanted("c1") == ["round-1"]
    assert candidates.norms("round-1") == {}
    assert candidates.weights("round-1")["w"].tolist() == [8, 8, 8]


def test_another_process_goes_on(tmp_path: Path) -> None:
    candidates = scored(tmp_path, {"c1": 0.9, "c2": 0.3}, {"c1": 0.8})
    candidates.scored("round-1", "c1", {"kidney": 0.9}, weights(5))
    candidates.scored("round-2", "c2", {"kidney": 0.2}, weights(6) | {"a/b": weights(7)["w"]})
    state, arrays = unpack(pack(candidates.state(), candidates.arrays()))

    other = Candidates(tmp_path, state, arrays)
    assert other.matrix(CASES, "worst") == candidates.matrix(CASES, "worst")
    assert other.weights("round-2")["w"].tolist() == [2, 2, 2]
    assert other.norms("round-1").keys() == {"c1"}
    assert other.norms("round-2")["c2"]["a/b"].tolist() == [7, 7, 7]
    assert other.arrays().keys() == candidates.arrays().keys()
    other.add("round-3", weights(3))
    other.scored("round-3", "c1", {"kidney": 1.0}, weights(1))
    assert other.names == ("round-1", "round-2", "round-3")
