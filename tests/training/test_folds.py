"""Folds: a partition, the same for any order of names, with patients whole."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imaging.errors import BadParameter
from training.folds import folds, hold_out

NAMES = [f"case_{i:02}" for i in range(20)]
# Patients with one to four scans.
PATIENT = {name: f"patient_{int(int(name[-2:]) ** 0.5)}" for name in NAMES}

name_lists = st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=30, unique=True)
seeds = st.integers(0, 2**32 - 1)


@given(name_lists, st.integers(2, 10), seeds, st.randoms(use_true_random=False))
def test_folds_are_an_even_partition_whatever_the_order(
    names: list[str], count: int, seed: int, shuffler: random.Random
) -> None:
    count = min(count, len(names))
    found = folds(names, count, seed)
    assert len(found) == count
    assert sorted(name for fold in found for name in fold) == sorted(names)
    sizes = [len(fold) for fold in found]
    assert max(sizes) - min(sizes) <= 1
    assert all(list(fold) == sorted(fold) for fold in found)
    shuffler.shuffle(names)
    assert folds(names, count, seed) == found


@given(
    st.dictionaries(st.text(max_size=4), st.sampled_from("abcdefg"), min_size=4, max_size=40), seeds
)
def test_a_patient_is_in_one_fold(patients: dict[str, str], seed: int) -> None:
    count = min(3, len(set(patients.values())))
    assume(count >= 2)
    found = folds(list(patients), count, seed, patients)
    assert sorted(name for fold in found for name in fold) == sorted(patients)
    seen = [{patients[name] for name in fold} for fold in found]
    assert sum(map(len, seen)) == len(set(patients.values()))
    largest = max(list(patients.values()).count(p) for p in set(patients.values()))
    sizes = [len(fold) for fold in found]
    assert max(sizes) - min(sizes) <= largest


def test_the_division_is_the_stored_one() -> None:
    # Sorted by sha256("0/<name>") the names are g f c b e d a; they are dealt out in turn.
    stored = [("a", "b", "g"), ("e", "f"), ("c", "d")]
    assert folds(list("abcdefg"), 3) == stored
    assert folds(list("abcdefg"), 3, seed=1) != stored


def test_large_patients_are_dealt_out_first() -> None:
    groups = {**dict.fromkeys("abcd", "large"), **dict.fromkeys("ef", "middle"), "g": "g", "h": "h"}
    found = folds(list("abcdefgh"), 2, 0, groups)
    assert sorted(found) == [("a", "b", "c", "d"), ("e", "f", "g", "h")]


@given(name_lists, st.floats(0.01, 0.99), seeds)
def test_a_part_is_set_aside(names: list[str], part: float, seed: int) -> None:
    wanted = max(1, round(part * len(names)))
    if wanted == len(names):
        with pytest.raises(BadParameter, match="leaves one side empty"):
            hold_out(names, part, seed)
        return
    kept, aside = hold_out(names, part, seed)
    assert len(aside) == wanted
    assert sorted(kept + aside) == sorted(names)
    assert hold_out(names[::-1], part, seed) == (kept, aside)


def test_monets_splits() -> None:
    names = [f"pancreas_{i:03}" for i in range(281)]
    learn, test = hold_out(names, 0.3)
    train, validation = hold_out(learn, 0.1)
    assert (len(test), len(learn), len(validation), len(train)) == (84, 197, 20, 177)
    assert hold_out(names, 0.3, seed=1) != (learn, test)


def test_patients_are_set_aside_whole() -> None:
    for seed in range(10):
        kept, aside = hold_out(NAMES, 0.4, seed, PATIENT)
        assert {PATIENT[n] for n in kept}.isdisjoint(PATIENT[n] for n in aside)
        assert 0 < len(aside) <= 8
        assert sorted(kept + aside) == NAMES


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(BadParameter, match=r"3 cases .* from 2 to 3 folds, not 4"):
        folds(["a", "b", "c"], 4)
    with pytest.raises(BadParameter, match="not 1"):
        folds(["a", "b"], 1)
    with pytest.raises(BadParameter, match=r"2 cases .* not 3"):
        folds(["a", "b", "c"], 3, 0, {"a": "x", "b": "x", "c": "y"})
    with pytest.raises(BadParameter, match=r"\['a'\] are named more than once"):
        folds(["a", "b", "a"], 2)
    with pytest.raises(BadParameter, match=r"\['b'\] have no group"):
        folds(["a", "b"], 2, 0, {"a": "x"})
    for part in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(BadParameter, match="part"):
            hold_out(["a", "b", "c"], part)
    with pytest.raises(BadParameter, match="1 groups"):
        hold_out(["a", "b", "c"], 0.34, 0, dict.fromkeys("abc", "x"))
