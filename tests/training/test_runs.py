"""A run's folder: pretraining before it, tasks exported apart, weights taken over."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from imaging.errors import DataError
from models.onnxfile import read_manifest
from tests.training.tiny import flat, volumetric, write_decathlon
from training import checkpoint, runs
from training.cases import Case
from training.datasets import open_dataset
from training.pretraining import start_from
from training.recipe import Loss, Recipe
from training.recipes import RECIPES
from training.recipes import recipe as named_recipe
from training.trainer import initial_network

PLAIN: dict[str, Any] = {"device": "cpu", "precision": "fp32", "quiet": True}
NET: dict[str, Any] = {
    "stem": 2,
    "planes": [1, 2, 2, 2],
    "expansion": 2,
    "repeats": [1] * 4,
    "decoder": [4, 4, 4, 4],
}


def before(_: Any = None) -> Recipe:
    return volumetric(
        name="before",
        architecture="kits21_resunet",
        options=NET | {"tasks": 2},
        outputs=("kidney", "pancreas"),
        activation="sigmoid",
        loss=Loss("task_dice_bce"),
        tasks=(("kidney", None), ("pancreas", None)),
        patch=(32, 32, 32),
        steps=8,
    )


def after(_: Any = None) -> Recipe:
    return volumetric(
        name="after",
        architecture="kits21_resunet",
        options=NET,
        patch=(32, 32, 32),
        pretrain="before",
        steps=4,
    )


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    monkeypatch.setitem(RECIPES, "before", before)  # type: ignore[misc]
    monkeypatch.setitem(RECIPES, "after", after)  # type: ignore[misc]
    return open_dataset(write_decathlon(tmp_path / "data"))


def test_a_pretraining_goes_before_and_is_as_much_shorter(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_export", lambda *a: [])
    shorter = dataclasses.replace(after(), steps=1, steps_per_epoch=1, batch=2, seed=9)
    runs.train_run(shorter, cases, tmp_path / "run", **PLAIN)
    first = runs.describe(tmp_path / "run" / "pretraining").recipe
    assert (first.name, first.steps, first.batch, first.seed) == ("before", 2, 2, 9)
    # Taken up again it is not trained a second time.
    (tmp_path / "run" / "last.pt").unlink()
    monkeypatch.setattr(runs, "beside", lambda *a: pytest.fail("trained twice"))
    runs.train_run(shorter, cases, tmp_path / "run", **PLAIN)


def test_a_training_begins_where_its_pretraining_ended(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    honest = runs.fit
    monkeypatch.setattr(runs, "_export", lambda *a: [])
    monkeypatch.setattr(runs, "fit", lambda *a, **k: given.append(k["initial"]) or honest(*a, **k))
    one_step = dataclasses.replace(after(), steps=1, steps_per_epoch=1)
    runs.train_run(one_step, cases, tmp_path / "run", **PLAIN)
    learned = checkpoint.load(tmp_path / "run" / "pretraining" / "last.pt").network
    fresh = initial_network(one_step).state_dict()
    assert given[0] is None, "the pretraining itself starts from its seed"
    started = given[1]
    shared = [name for name in started if name in learned and "head" not in name]
    assert len(shared) > 20
    assert all(torch.equal(started[name], learned[name]) for name in shared)
    own = [name for name in started if name not in shared]
    assert own
    assert all(torch.equal(started[name], fresh[name]) for name in own)


def test_weights_can_be_given_to_any_recipe(tmp_path: Path, cases: list[Case]) -> None:
    recipe = flat(steps=2, patch=(1, 32, 32))
    runs.train_run(recipe, cases, tmp_path / "one", **PLAIN)
    still = dataclasses.replace(
        recipe, seed=8, optimizer=dataclasses.replace(recipe.optimizer, lr=0.0)
    )
    begun = start_from(still, tmp_path / "one")
    made = runs.train_run(still, cases, tmp_path / "two", start=begun, **PLAIN)
    ends = [checkpoint.load(tmp_path / n / "last.pt").network for n in ("one", "two")]
    assert torch.equal(ends[0]["head.0.weight"], ends[1]["head.0.weight"])
    # The model says what it began with, and what that was trained on.
    own, weights, before = made[0].manifest.provenance.data
    assert weights["name"] == "weights of a training of tiny-flat (2 steps)"
    assert before == own | {"through": "a training of tiny-flat (2 steps)"}


@pytest.mark.slow
def test_a_dynamic_head_is_exported_task_by_task(tmp_path: Path, cases: list[Case]) -> None:
    recipe = dataclasses.replace(before(), steps=1, steps_per_epoch=1)
    made = runs.train_run(recipe, cases, tmp_path / "run", **PLAIN)
    assert [m.path.name for m in made] == ["model-kidney.onnx", "model-pancreas.onnx"]
    assert [read_manifest(m.path).outputs for m in made] == [("kidney",), ("pancreas",)]
    assert all(m.manifest.activation == "sigmoid" for m in made)
    again = runs.export_run(tmp_path / "run", tmp_path / "again.onnx", task="pancreas")
    assert again.manifest.weights_sha256 == made[1].manifest.weights_sha256
    for task, message in ((None, "has the tasks kidney, pancreas"), ("liver", "name one")):
        with pytest.raises(DataError, match=message):
            runs.export_run(tmp_path / "run", tmp_path / "no.onnx", task=task)


def test_without_a_case_phantoms_take_their_place() -> None:
    recipe = volumetric(sampling=dataclasses.replace(volumetric().sampling, spacing_mm=(8.0,) * 3))
    assert runs.make_phantoms(recipe) == []
    few = dataclasses.replace(recipe, phantoms=2)
    assert [c.name for c in runs.make_phantoms(few, alone=True)] == ["phantom-0", "phantom-1"]
    assert all(case.phantom for case in runs.make_phantoms(few))


def test_phantoms_of_a_dynamic_head_are_labelled_for_one_task_each() -> None:
    wanted = named_recipe("mots-dodnet", "tiny")
    coarse = dataclasses.replace(wanted.sampling, spacing_mm=(8.0,) * 3)
    made = runs.make_phantoms(dataclasses.replace(wanted, sampling=coarse, phantoms=3))
    named = [case.annotated for case in made]
    assert named == [
        ("liver", "liver_tumor"),
        ("kidney", "kidney_tumor"),
        ("hepatic_vessel", "liver_tumor"),
    ]


def test_the_description_comes_last(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "_export", fails)
    with pytest.raises(KeyboardInterrupt):
        runs.train_run(flat(steps=2, patch=(1, 32, 32)), cases, tmp_path / "run", **PLAIN)
    with pytest.raises(DataError, match="holds no finished training"):
        runs.describe(tmp_path / "run")
    assert (
        json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])["step"] == 2
    )
