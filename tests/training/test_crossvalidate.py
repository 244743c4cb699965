"""Leave one out: every model without its case, and none trained twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import training.crossvalidate as module
from imaging.errors import BadParameter, DataError
from tests.training.tiny import flat, write_decathlon
from training.crossvalidate import crossvalidate
from training.datasets import open_dataset
from training.runs import CACHE, MODEL, describe

PLAIN: dict[str, Any] = {"device": "cpu", "precision": "fp32", "quiet": True}


def test_every_case_is_left_out_once_and_nothing_is_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = flat(steps=2, patch=(1, 32, 32))
    cases = open_dataset(write_decathlon(tmp_path / "data"))
    asked: list[tuple[str, list[str]]] = []
    honest = module.train_run

    def watched(recipe: Any, others: Any, run: Path, **options: Any) -> Any:
        asked.append((run.name, [case.name for case in others]))
        return honest(recipe, others, run, **options)

    monkeypatch.setattr(module, "train_run", watched)
    out = tmp_path / "out"
    scores = crossvalidate(recipe, cases, out, **PLAIN)
    assert asked == [("blocks_0", ["blocks_1"]), ("blocks_1", ["blocks_0"])]
    assert [(s.case, s.structure) for s in scores] == [
        ("blocks_0", "kidney"),
        ("blocks_1", "kidney"),
    ]
    assert describe(out / "blocks_0").provenance.data[0]["cases"] == 1

    # Stopped before the second export: the first is scored, the second trained to its end.
    (out / "blocks_1" / MODEL).unlink()
    assert crossvalidate(recipe, cases, out, **PLAIN) == scores
    assert asked[2:] == [("blocks_1", ["blocks_0"])]

    with pytest.raises(DataError, match="other settings"):
        crossvalidate(flat(steps=3, patch=(1, 32, 32)), cases, out, **PLAIN)
    assert len(asked) == 3


def test_a_patients_cases_are_left_out_together_and_copies_are_not_scored(tmp_path: Path) -> None:
    recipe = flat(steps=1, patch=(1, 32, 32))
    cases = open_dataset(write_decathlon(tmp_path / "data", seeds=(0, 1, 2, 3)))
    # A copy of the first one; two scans of somebody else.
    whose = ["blocks_0", "blocks_0", "anna", "anna"]
    cases = [replace(case, patient=name) for case, name in zip(cases, whose, strict=True)]
    scores = crossvalidate(recipe, cases, tmp_path / "out", **PLAIN)
    assert [s.case for s in scores] == ["blocks_0", "blocks_2", "blocks_3"]
    for run in ("blocks_0", "anna"):
        assert describe(tmp_path / "out" / run).provenance.data[0]["cases"] == 2
    with pytest.raises(BadParameter, match="of one patient"):
        crossvalidate(recipe, cases[2:], tmp_path / "alone", **PLAIN)


def test_only_the_named_cases_are_left_out(tmp_path: Path) -> None:
    recipe = flat(steps=1, patch=(1, 32, 32))
    cases = open_dataset(write_decathlon(tmp_path / "data"))
    scores = crossvalidate(recipe, cases, tmp_path / "out", only=["blocks_1"], **PLAIN)
    assert [s.case for s in scores] == ["blocks_1"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"blocks_1", CACHE}
    with pytest.raises(BadParameter, match="blocks_7"):
        crossvalidate(recipe, cases, tmp_path / "out", only=["blocks_7"], **PLAIN)


def test_folds_leave_out_several_at_a_time(tmp_path: Path) -> None:
    recipe = flat(steps=1, patch=(1, 32, 32))
    cases = open_dataset(write_decathlon(tmp_path / "data", seeds=(0, 1, 2)))
    scores = crossvalidate(recipe, cases, tmp_path / "out", count=2, **PLAIN)
    assert sorted(s.case for s in scores) == ["blocks_0", "blocks_1", "blocks_2"]
    counts = [describe(tmp_path / "out" / f"fold-{i}").provenance.data[0]["cases"] for i in (1, 2)]
    assert sorted(counts) == [1, 2]
    again = crossvalidate(recipe, cases, tmp_path / "out", count=2, only=["fold-2"], **PLAIN)
    assert again == [s for s in scores if s in again]


def test_too_few_cases_and_too_many_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = open_dataset(write_decathlon(tmp_path / "data"))
    with pytest.raises(BadParameter, match="1 cases of one patient cannot be left out"):
        crossvalidate(flat(), cases[:1], tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadParameter, match="one process"):
        crossvalidate(flat(), cases, tmp_path)
