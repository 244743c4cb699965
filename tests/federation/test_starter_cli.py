"""``islet federate starter``: a federation for each part, and what is made of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from federation import partners, starter, starter_cli
from federation.job import Job
from models.store import Store
from tests.training.test_pretraining import published
from training.recipes import recipe

Trained = list[tuple[Job, Path, bool]]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trained:
    """What would have been trained: job, folder, whether with a twin."""
    found: Trained = []

    def train(job: Job, data: Any, out: Path, store: Path, **options: Any) -> dict[str, Any]:
        found.append((job, out, options["twin"]))
        recipe = dataclasses.replace(job.recipe, phantoms=1)
        path = published(recipe, tmp_path / "model.onnx")
        Store(store, behind=()).publish(path, ["global", "site-a"])
        return {"job": job.name}

    monkeypatch.setenv("ISLET_STORE", str(tmp_path / "another"))
    monkeypatch.setattr(starter, "train_starter", train)
    monkeypatch.setattr(partners, "share_out", lambda *_: {})
    return found


def run(tmp_path: Path, *words: str) -> None:
    parser = argparse.ArgumentParser()
    starter_cli.add_command(parser.add_subparsers())
    folders = ["--data", "cts", "-o", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    pace = ["--scale", "tiny", "--rounds", "4", "--steps", "5"]
    args = parser.parse_args(["starter", *folders, *pace, *words])
    assert args.command(args) == 0


def test_the_parts_are_federated_and_joined(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "--seed", "3")
    assert [(job.recipe.name, out.name, twin) for job, out, twin in trained] == [
        ("starter-organs", "organs", True),
        ("starter-lesions", "lesions", True),
    ]
    for job, _, _ in trained:
        assert (job.recipe.steps, job.recipe.seed, job.weights["a"]) == (20, 3, 2)
    summary = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert summary["parts"] == {p: {"job": f"starter-{p}"} for p in ("organs", "lesions")}
    assert [m.split()[-1] for m in summary["models"]] == ["(global)", "(site-a)"]
    made = Store(tmp_path / "store", behind=()).resolve("starter@site-a").manifest
    assert made.outputs == recipe("starter").outputs


def test_a_model_is_gone_on_with(trained: Trained, tmp_path: Path) -> None:
    path = published(recipe("starter", "tiny"), tmp_path / "starter.onnx")
    model = Store(tmp_path / "store", behind=()).publish(path).reference
    run(tmp_path, "--from", model, "--no-twin")
    ((job, out, twin),) = trained
    assert (job.recipe.name, job.start, out, twin) == ("starter", model, tmp_path / "out", False)
    usual = recipe("starter", "tiny").optimizer.lr
    assert job.recipe.optimizer.lr == pytest.approx(usual / 2)


def test_a_recipe_of_one_part_is_one_federation(trained: Trained, tmp_path: Path) -> None:
    run(tmp_path, "--recipe", "starter-finder")
    ((job, _, _),) = trained
    assert (job.recipe.name, job.start) == ("starter-finder", "")


def test_what_is_kept_aside_counts_nowhere(trained: Trained, tmp_path: Path) -> None:
    aside = ["tcga_coad", "thorax_abdomen_p2"]
    run(tmp_path, "--recipe", "starter-finder", "--leave-out", *aside)
    assert trained[0][0].weights == {"a": 2, "b": 1, "d": 1}
