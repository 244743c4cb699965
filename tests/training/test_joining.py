"""A network joined from parts that were trained apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import islet
from imaging.errors import BadParameter
from models.onnxfile import read_manifest
from tests.training.test_pretraining import learned, published
from training import joining, runs
from training.joining import join
from training.package import onnx_scorer
from training.pretraining import start_from
from training.recipe import Recipe
from training.recipes import beside, recipe

WHOLE = recipe("starter", "tiny")
PARTS = {part: recipe(name, "tiny") for part, name in WHOLE.parts.items()}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {part: published(own, tmp_path / f"{part}.onnx") for part, own in PARTS.items()}


def test_every_weight_of_the_parts_is_in_the_whole(files: dict[str, Path]) -> None:
    network, provenance = join(WHOLE, files)
    for part, own in PARTS.items():
        state = network.get_submodule(part).state_dict()
        for name, value in learned(own).state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(state[name], value)
    assert not network.training
    assert provenance.recipe == "starter"
    assert [entry["name"] for entry in provenance.data] == ["blocks"]


def test_the_command_writes_a_model_that_can_be_gone_on_with(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [f"{part}={file}" for part, file in files.items()]
    out = tmp_path / "whole.onnx"
    assert islet.main(["join", "starter", *named, "--scale", "tiny", "-o", str(out)]) == 0
    assert "starter" in capsys.readouterr().out
    manifest = read_manifest(out)
    assert (manifest.outputs, manifest.architecture) == (WHOLE.outputs, "lesion_cascade")
    x = np.random.default_rng(0).uniform(-1, 1, (1, 1, 32, 32, 32)).astype(np.float32)
    network, _ = join(WHOLE, files)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    # Rounded to half precision, of scores that are as large as random weights make them.
    np.testing.assert_allclose(onnx_scorer(out)(x), expected, rtol=0.02, atol=np.ptp(expected) / 99)
    assert start_from(WHOLE, out).share == 1.0
    for part, own in PARTS.items():
        start = start_from(own, out)
        assert start.share == 1.0
        assert str(start).startswith(f"starts from the {part} of starter")


def test_a_part_of_a_joined_model_is_joined_with_another_one(
    files: dict[str, Path], tmp_path: Path
) -> None:
    whole = tmp_path / "whole.onnx"
    joining.join_files(WHOLE, files, whole)
    again, _ = join(WHOLE, {"organs": whole, "lesions": files["lesions"]})
    for name, value in join(WHOLE, files)[0].state_dict().items():
        # A file has its weights in half precision.
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_other_parts_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="from organs, lesions, not from organs"):
        join(WHOLE, {"organs": files["organs"]})
    with pytest.raises(BadParameter, match="another network than starter-organs trains"):
        join(WHOLE, {"organs": files["lesions"], "lesions": files["organs"]})
    other = dataclasses.replace(PARTS["organs"], outputs=("kidney", "pancreas", "liver", "spleen"))
    files["organs"] = published(other, tmp_path / "other.onnx")
    with pytest.raises(BadParameter, match="another network"):
        join(WHOLE, files)


def test_a_part_is_as_much_shorter_as_the_whole() -> None:
    shorter = dataclasses.replace(WHOLE, steps=WHOLE.steps // 4, phantoms=WHOLE.phantoms // 2)
    own = beside("starter-lesions", dataclasses.replace(shorter, seed=7, batch=3 * WHOLE.batch))
    usual = PARTS["lesions"]
    assert (own.steps, own.phantoms, own.seed) == (usual.steps // 4, usual.phantoms // 2, 7)
    assert own.batch == 3 * usual.batch
    assert own.steps_per_epoch <= own.steps


def test_a_training_trains_each_part_once(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, trained = runs.train_run, []

    def train(own: Recipe, cases: object, out: Path, **options: object) -> list[runs.Exported]:
        if own.parts:
            return whole(own, (), out)
        trained.append((own.name, out))
        out.mkdir(parents=True)
        (out / runs.DESCRIPTION).write_text("{}")
        return []

    monkeypatch.setattr(runs, "train_run", train)
    asked = []

    def joined(own: Recipe, sources: dict[str, Path]) -> object:
        asked.append(sources)
        return joining.join(own, files)

    monkeypatch.setattr(runs, "join", joined)
    for _ in range(2):
        (model,) = train(WHOLE, (), tmp_path / "out")
        assert model.path == tmp_path / "out" / "model.onnx"
    names = [("starter-organs", "organs"), ("starter-lesions", "lesions")]
    assert trained == [(name, tmp_path / "out" / part) for name, part in names]
    assert asked[0] == {part: tmp_path / "out" / part for part in WHOLE.parts}
    assert runs.describe(tmp_path / "out").recipe == WHOLE
    assert start_from(WHOLE, tmp_path / "out").share == 1.0
    monkeypatch.setattr(runs, "processes", lambda: 2)
    with pytest.raises(BadParameter, match="islet join"):
        train(WHOLE, (), tmp_path / "out")
