"""Who judges what: a case is never judged by a model that saw it without saying so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from imaging.errors import BadParameter, DataError, ModelNotFound
from models.onnxfile import read_identity
from tests.training.assess.boxes import bench, data, model
from training.assess.subjects import subjects
from training.datasets import open_dataset
from training.folds import folds
from training.runs import DESCRIPTION


def run(folder: Path, *data_names: str) -> None:
    """A finished training's folder."""
    model(folder, *data_names)
    (folder / DESCRIPTION).write_text("{}", encoding="utf-8")


def test_each_case_is_judged_by_the_model_that_left_it_out(tmp_path: Path) -> None:
    cases = data(tmp_path / "data", "a", "b", "c")
    run(tmp_path / "loo" / "a", "b", "c")
    run(tmp_path / "loo" / "b", "a", "c")
    (tmp_path / "loo" / "cache").mkdir()
    found = subjects(str(tmp_path / "loo"), cases)
    assert [(s.case.name, s.model.parent.name, s.seen) for s in found] == [
        ("a", "a", "left out"),
        ("b", "b", "left out"),
    ]
    assert found[0].sha256 == read_identity(found[0].model)[1]


def test_a_left_out_model_that_names_the_case_is_refused(tmp_path: Path) -> None:
    cases = data(tmp_path / "data", "a", "b")
    run(tmp_path / "loo" / "a", "a", "b")
    with pytest.raises(DataError, match="said to have left out a, but its manifest names 'a'"):
        subjects(str(tmp_path / "loo"), cases)


def test_numbered_folds_are_the_crossvalidations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = data(tmp_path / "data", *"abcde")
    for index in (1, 2):
        run(tmp_path / "cv" / f"fold-{index}")
    described = type("Run", (), {"recipe": type("Recipe", (), {"seed": 5})})
    monkeypatch.setattr("training.assess.subjects.describe", lambda out: described)
    found = subjects(str(tmp_path / "cv"), cases)
    first, second = folds(list("abcde"), 2, 5)
    assert {s.case.name for s in found if s.model.parent.name == "fold-1"} == set(first)
    assert {s.case.name for s in found if s.model.parent.name == "fold-2"} == set(second)


def test_one_model_says_whether_it_was_trained_on_a_case(tmp_path: Path) -> None:
    cases = data(tmp_path / "data", "a", "b")
    found = subjects(str(model(tmp_path / "m", "a")), cases)
    assert [s.seen for s in found] == ["trained on", "not seen"]
    index = tmp_path / "data" / "index.json"
    raw = json.loads(index.read_text())
    for entry in raw["cases"]:
        entry["provenance"] = "one set"
    index.write_text(json.dumps(raw))
    again = [*data(tmp_path / "other", "c"), *open_dataset(tmp_path / "data")]
    found = subjects(str(model(tmp_path / "m2", "one set")), again)
    assert [s.seen for s in found] == ["not seen", "perhaps trained on", "perhaps trained on"]


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    cases = data(tmp_path / "data", "a")
    with pytest.raises(BadParameter, match="--data"):
        subjects(str(model(tmp_path / "m")), [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadParameter, match="no model that left out one of a"):
        subjects(str(tmp_path / "empty"), cases)
    with pytest.raises(ModelNotFound):
        subjects("no-such-model", cases)


def test_a_bench_predicts_what_serving_would(tmp_path: Path) -> None:
    judged = bench(tmp_path)
    labels, seconds = judged.untouched
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert 0 < seconds.wall < 60
    assert judged.untouched[0] is labels, "the CT is segmented once"
