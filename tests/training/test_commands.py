"""The training floor from the command line: train, evaluate, export, crossvalidate."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

import islet
from models.onnxfile import read_manifest
from models.store import Store
from tests.training.tiny import cases, flat, write_decathlon
from training.prepared import Prepared
from training.recipe import Recipe
from training.recipes import RECIPES


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set, and a recipe ``tiny`` for it."""
    monkeypatch.setitem(RECIPES, "tiny", lambda _: flat(name="tiny", patch=(1, 32, 32)))  # type: ignore[misc]
    monkeypatch.setenv("ISLET_STORE", str(tmp_path / "store"))
    return write_decathlon(tmp_path / "data")


def train(data: Path, out: Path, *more: str) -> int:
    where = ["--data", str(data), "--out", str(out)]
    return islet.main(["train", "tiny", *where, "--steps", "2", "--device", "cpu", *more])


def test_train_evaluate_export_publish(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(data, out, "--validate", "blocks_1", "--seed", "5") == 0
    assert "tiny, 2 steps" in capsys.readouterr().out
    manifest = read_manifest(out / "model.onnx")
    assert manifest.provenance.seed == 5
    assert manifest.provenance.data[0]["cases"] == 1
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert history[-1]["step"] == 2
    assert "validation_loss" in history[-1]

    found = tmp_path / "deep" / "scores.json"
    model = str(out / "model.onnx")
    assert islet.main(["evaluate", model, "--data", str(data), "--json", str(found)]) == 0
    scores = json.loads(found.read_text())
    assert [s["case"] for s in scores] == ["blocks_0", "blocks_1"]
    assert all(0 <= s["dice"] <= 1 for s in scores)
    table = capsys.readouterr().out
    assert f"| blocks_0 | {scores[0]['dice']:.3f} |" in table

    again = tmp_path / "again" / "model.onnx"
    command = ["export", str(out), "--out", str(again), "--scores", str(found), "--publish"]
    assert islet.main(command) == 0
    assert "published as tiny@1" in capsys.readouterr().out
    assert read_manifest(again).scores == {"cases": scores}
    assert Store(tmp_path / "store").resolve("tiny").version == 1
    assert islet.main(["evaluate", "tiny@live", "--data", str(data)]) == 0

    assert train(data, out, "--validate", "blocks_1", "--resume") == 2
    assert "bad_case" in capsys.readouterr().err, "another seed"


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["train", "nosuch", "--data", "DATA", "--out", "OUT"], "bad_parameter", "'nosuch'"),
        (["train", "tiny", "--data", "OUT", "--out", "OUT"], "bad_case", "no data set"),
        (
            ["train", "tiny", "--data", "DATA", "--out", "OUT", "--validate", "x"],
            "bad_parameter",
            "['x']",
        ),
        (
            ["train", "tiny", "--data", "DATA", "DATA", "--out", "OUT"],
            "bad_parameter",
            "blocks_0",
        ),
        (
            ["train", "tiny", "--data", "DATA", "--out", "OUT", "--steps", "0"],
            "bad_parameter",
            "at least 1",
        ),
        (
            ["train", "tiny", "--data", "DATA", "--out", "OUT", "--seed", "-1"],
            "bad_parameter",
            "seed",
        ),
        (
            ["train", "tiny", "--data", "DATA", "--out", "OUT", "--track", "wandb"],
            "bad_parameter",
            "wandb",
        ),
        (
            ["train", "tiny", "--data", "DATA", "--out", "OUT", "--from", "DATA"],
            "bad_case",
            "holds no checkpoint",
        ),
        (["data", "make", "dicom", "OUT"], "bad_parameter", "kits21"),
        (["evaluate", "nosuch", "--data", "DATA"], "model_not_found", "nosuch"),
        (["export", "OUT"], "bad_case", "no finished training"),
        (["phantom", "OUT", "--cases", "0"], "bad_parameter", "at least one"),
    ],
)
def test_errors_exit_with_2_and_their_code(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    code: str,
    message: str,
) -> None:
    places = {"DATA": str(data), "OUT": str(tmp_path / "out")}
    assert islet.main([places.get(word, word) for word in command]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"islet: {code}: ")
    assert message in error


def test_scores_that_are_no_json_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("absent.json", "data/dataset.json/x", "data/labelsTr/blocks_0.nii.gz"):
        command = ["export", str(tmp_path), "--scores", str(tmp_path / name)]
        assert islet.main(command) == 2
        assert "is no JSON file" in capsys.readouterr().err


def test_phantom_writes_a_set_that_opens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.phantoms

    honest = training.phantoms.write_set
    monkeypatch.setattr(training.phantoms, "write_set", lambda *a: honest(*a, shape=(16, 24, 24)))
    assert islet.main(["phantom", str(tmp_path / "set"), "--cases", "2", "--seed", "3"]) == 0
    assert "2 phantoms" in capsys.readouterr().out
    from training.datasets import open_dataset

    assert len(open_dataset(tmp_path / "set")) == 2


@pytest.mark.slow
def test_a_real_recipe_in_a_real_process(tmp_path: Path) -> None:
    data, out = write_decathlon(tmp_path / "data"), tmp_path / "run"
    command = [sys.executable, "-m", "islet", "train", "starter-monet"]
    command += ["--data", str(data), "--out", str(out), "--steps", "1", "--phantoms", "0"]
    command += ["--device", "cpu", "--precision", "fp32"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out / 'model.onnx'}: starter-monet, 1 steps;")
    manifest = read_manifest(out / "model.onnx")
    assert manifest.architecture == "monet"
    assert manifest.outputs == RECIPES["starter-monet"]("paper").outputs


def test_a_set_is_made_checked_and_refused_when_spoiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "set"
    command = ["data", "make", "kits21", str(made), "--cases", "2", "--shape", "32", "48", "48"]
    assert islet.main(command) == 0
    assert "2 phantoms" in capsys.readouterr().out
    assert islet.main(["data", "check", str(made)]) == 0
    capsys.readouterr()
    image = next(made.rglob("imaging.nii.gz"))
    image.write_bytes(image.read_bytes()[:2000])
    assert islet.main(["data", "check", str(made)]) == 1
    report = capsys.readouterr().out
    assert "unreadable_image" in report
    assert image.parent.name in report


def test_without_data_a_training_says_that_it_uses_phantoms(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def phantoms(recipe: Recipe, alone: bool = False) -> list[Prepared]:
        asked.append(alone)
        return cases(recipe)

    monkeypatch.setattr("training.runs.make_phantoms", phantoms)
    command = ["train", "tiny", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert islet.main([*command, "--precision", "fp32", "--track", "tensorboard"]) == 0
    assert asked == [True]
    assert "No --data: tiny trains on phantoms" in capsys.readouterr().out
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_runs_become_one_model_with_all_its_scores(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("1", "2"):
        assert train(data, tmp_path / seed, "--seed", seed) == 0
    both = str(tmp_path / "both.onnx")
    assert islet.main(["ensemble", str(tmp_path / "1"), str(tmp_path / "2"), "--out", both]) == 0
    capsys.readouterr()
    found = tmp_path / "scores.csv"
    command = ["evaluate", both, "--data", str(data), "--surfaces", "--csv", str(found)]
    assert islet.main(command) == 0
    assert "Hausdorff" in capsys.readouterr().out
    rows = list(csv.DictReader(found.read_text().splitlines()))
    assert [row["case"] for row in rows] == ["blocks_0", "blocks_1"]
    assert all(0 <= float(row["surface_dice"]) <= 1 for row in rows)
