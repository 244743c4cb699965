"""Several trainings as one model: their mean, their data, and no other recipe among them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imaging.errors import BadParameter, DataError
from models.manifest import Provenance
from models.onnxfile import read_manifest
from tests.training.tiny import cases, flat
from training import checkpoint
from training.ensemble import _of_all, export_ensemble
from training.fit import fit
from training.package import onnx_scorer, torch_scorer
from training.recipe import Loss, Recipe
from training.runs import DESCRIPTION
from training.trainer import initial_network

PLAIN: dict[str, Any] = {"device": "cpu", "precision": "fp32", "quiet": True}


def finished(folder: Path, recipe: Recipe, cases_seen: int = 1, **provenance: Any) -> Path:
    """The folder of a run of one step, but for its model: exporting takes the longest."""
    fit(recipe, cases(recipe, cases_seen), folder, **PLAIN)
    return described(folder, recipe, cases_seen, **provenance)


def described(folder: Path, recipe: Recipe, cases_seen: int = 1, **provenance: Any) -> Path:
    """What a run's folder says of it, without weights."""
    folder.mkdir(exist_ok=True)
    data = ({"name": "blocks", "cases": cases_seen},)
    origin = Provenance(recipe.name, data=data, seed=recipe.seed, steps=recipe.steps, **provenance)
    raw = {"recipe": json.loads(recipe.to_json()), "provenance": dataclasses.asdict(origin)}
    (folder / DESCRIPTION).write_text(json.dumps(raw))
    return folder


def tiny(**changes: Any) -> Recipe:
    return flat(**{"steps": 1, "steps_per_epoch": 1, **changes})


@pytest.mark.slow
def test_two_trainings_are_one_model(tmp_path: Path) -> None:
    recipes = [tiny(), tiny(seed=5)]
    runs = [finished(tmp_path / "one", recipes[0], 2), finished(tmp_path / "two", recipes[1], 1)]
    exported = export_ensemble(runs, tmp_path / "both.onnx", {"dice": 0.5})
    manifest = read_manifest(tmp_path / "both.onnx")
    assert manifest == exported.manifest
    assert exported.parity.max_difference < 1e-4
    assert manifest.scores == {"dice": 0.5}
    [blocks] = manifest.provenance.data
    assert blocks == {"name": "blocks", "cases": 2, "cases_by_network": [2, 1]}
    assert (manifest.provenance.steps, manifest.provenance.seed) == (2, None)

    value = np.random.default_rng(0).standard_normal((1, 1, 32, 32)).astype(np.float32)
    each = []
    for recipe, out in zip(recipes, runs, strict=True):
        network = initial_network(recipe)
        network.load_state_dict(checkpoint.load(out / checkpoint.LAST).network)
        each.append(1 / (1 + np.exp(-torch_scorer(network)(value))))
    answer = 1 / (1 + np.exp(-onnx_scorer(tmp_path / "both.onnx")(value)))
    assert np.abs(each[0] - each[1]).max() > 0.01
    assert np.allclose(answer, (each[0] + each[1]) / 2, atol=1e-4)


def test_the_provenance_is_that_of_all() -> None:
    one = Provenance(
        "tiny",
        data=({"name": "a", "licence": "CC0", "cases": 4}, {"name": "b", "cases": 2}),
        seed=1,
        steps=100,
        software={"torch": "2.1", "islet": "0.1"},
        created="2026-01-02",
    )
    two = Provenance(
        "tiny",
        data=({"licence": "CC0", "name": "a", "cases": 5},),
        seed=1,
        steps=90,
        software={"torch": "2.2", "islet": "0.1"},
        created="2026-01-01",
    )
    assert _of_all([one, two]) == Provenance(
        "tiny",
        data=(
            {"name": "a", "licence": "CC0", "cases": 5, "cases_by_network": [4, 5]},
            {"name": "b", "cases": 2, "cases_by_network": [2, 0]},
        ),
        seed=1,
        steps=190,
        software={"torch": "2.1, 2.2", "islet": "0.1"},
        created="2026-01-02",
    )


@pytest.mark.parametrize(
    ("changes", "provenance", "named"),
    [
        ({"steps": 2, "patch": (1, 16, 24)}, {}, "another patch, steps than"),
        ({"outputs": ("pancreas",)}, {}, "another outputs than"),
        ({}, {"scope": "local", "site": "north"}, "another scope than"),
    ],
)
def test_another_recipe_is_refused(
    changes: dict[str, Any], provenance: dict[str, Any], named: str, tmp_path: Path
) -> None:
    one = finished(tmp_path / "one", tiny())
    two = finished(tmp_path / "two", tiny(seed=9, **changes), **provenance)
    with pytest.raises(DataError, match=f"two was trained with {named}"):
        export_ensemble([one, two], tmp_path / "both.onnx")
    assert not (tmp_path / "both.onnx").exists()


def test_an_ensemble_is_of_several_finished_runs(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", tiny())
    for runs in ([], [one], [one, tmp_path / "two" / ".." / "one"]):
        with pytest.raises(BadParameter, match="two runs or more"):
            export_ensemble(runs, tmp_path / "both.onnx")
    with pytest.raises(DataError, match="no finished training"):
        export_ensemble([one, tmp_path / "two"], tmp_path / "both.onnx")


def test_a_dynamic_head_is_refused(tmp_path: Path) -> None:
    recipe = tiny(
        name="tiny-tasks",
        outputs=("kidney", "kidney_tumor"),
        loss=Loss("task_dice_bce"),
        tasks=(("kidney", "kidney_tumor"),),
    )
    runs = [described(tmp_path / name, recipe) for name in ("one", "two")]
    with pytest.raises(BadParameter, match="tiny-tasks have a dynamic head"):
        export_ensemble(runs, tmp_path / "both.onnx")
