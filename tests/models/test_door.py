"""Models from elsewhere, taken in or refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from imaging.errors import BadParameter, InputTooLarge, ModelRefused
from models import trial
from models.door import admit, check
from models.manifest import Intensity, Manifest
from models.onnxfile import embed, graph_sha256, read_manifest
from models.store import RELEASED, Store
from tests.models import foreign_graphs
from tests.models.foreign_graphs import conv, endless
from tests.models.manifests import manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", behind=())


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the first run, whose process takes half a second: for what is refused before it."""

    def run(path: Path) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr("models.door.attempt", run)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What would have been run for the first time, and is not: other tests do run it."""
    found: list[Path] = []
    monkeypatch.setattr("models.door.attempt", found.append)
    return found


def _file(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "elsewhere.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _snapshot(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_file_with_a_manifest_beside_it_becomes_one_that_describes_itself(
    store: Store, tmp_path: Path
) -> None:
    file = _file(tmp_path, conv())
    made = admit(store, file, manifest().to_json(), ("global",))
    assert (made.reference, store.aliases("tiny")) == ("tiny@1", {"global": 1})
    assert made.manifest.weights_sha256 == graph_sha256(onnx.load(file))
    assert dataclasses.replace(made.manifest, weights_sha256=None) == manifest()
    image = np.random.default_rng(0).random((1, 1, 4, 5, 6), np.float32)
    runs = [
        onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]).run(
            None, {"image": image}
        )[0]
        for p in (file, made.path)
    ]
    np.testing.assert_array_equal(*runs)


def test_a_file_that_describes_itself_needs_nothing_and_moves_no_alias(
    store: Store, tmp_path: Path, tried: list[Path]
) -> None:
    embed(conv(), manifest(), tmp_path / "own.onnx")
    made = admit(store, tmp_path / "own.onnx")
    assert made.path.read_bytes() == (tmp_path / "own.onnx").read_bytes()
    assert store.aliases("tiny") == {}


def test_a_manifest_beside_wins_over_the_one_inside(
    store: Store, tmp_path: Path, tried: list[Path]
) -> None:
    embed(conv(), manifest(), tmp_path / "own.onnx")
    other = manifest(name="renamed", outputs=("liver", "spleen")).to_json()
    assert admit(store, tmp_path / "own.onnx", other).manifest.outputs == ("liver", "spleen")


@pytest.mark.parametrize("which", ["file", "graph"])
def test_a_stated_hash_is_that_of_the_file_or_of_the_graph(
    tmp_path: Path, tried: list[Path], which: str
) -> None:
    file = _file(tmp_path, conv())
    digest = {
        "file": hashlib.sha256(file.read_bytes()).hexdigest().upper(),
        "graph": graph_sha256(onnx.load(file)),
    }[which]
    found = check(file, manifest(weights_sha256=digest).to_json())
    assert found.weights_sha256 == graph_sha256(onnx.load(file))


def test_the_released_models_pass(tried: list[Path]) -> None:
    files = list(RELEASED.glob("*/*/model.onnx"))
    assert [check(file) for file in files] == [read_manifest(file) for file in files]
    assert tried == files


def _two_inputs() -> onnx.ModelProto:
    made = conv()
    made.graph.input.append(made.graph.input[0])
    made.graph.input[1].name = "age"
    return made


def _two_outputs() -> onnx.ModelProto:
    made = conv()
    made.graph.output.append(helper.make_tensor_value_info("deep", TensorProto.FLOAT, None))
    made.graph.node.append(helper.make_node("Identity", ["scores"], ["deep"]))
    return made


def _doubles() -> onnx.ModelProto:
    return foreign_graphs.model(
        [helper.make_node("Concat", ["image"] * 3, ["scores"], axis=1)],
        {},
        given=foreign_graphs.axes(3, 1),
        made=foreign_graphs.axes(3, 3),
        kind=TensorProto.DOUBLE,
    )


def _outside() -> onnx.ModelProto:
    made = conv()
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return made


def _custom() -> onnx.ModelProto:
    made = conv()
    made.graph.node[0].domain = "com.evil"
    return made


def _fixed(*sides: int, batch: int | str = "n", dims: int = 3) -> Callable[[], onnx.ModelProto]:
    return lambda: conv(dims, given=[batch, 1, *sides])


FLAT = {"dims": 2, "patch": (1, 32, 32)}
UNFIT: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, Any], str]] = {
    "custom operators": (_custom, {}, r"com\.evil"),
    "external data": (_outside, {}, "outside the file"),
    "two inputs": (_two_inputs, {}, "has 2 inputs"),
    "two outputs": (_two_outputs, {}, "has 2 outputs"),
    "double precision": (_doubles, {}, "input must be float32"),
    "2D graph, 3D manifest": (lambda: conv(2), {}, "4 axes, a 3D model has 5"),
    "3D graph, 2D manifest": (conv, FLAT, "5 axes, a 2D model has 4"),
    "two input channels": (
        lambda: conv(given=["n", 2, "z", "y", "x"]),
        {},
        "input has 2 channels, the manifest promises 1",
    ),
    "a channel too few": (
        conv,
        {"outputs": ("pancreas", "kidney", "liver")},
        "output has 3 channels, the manifest promises 4",
    ),
    "the background forgotten": (
        conv,
        {"activation": "sigmoid"},
        "output has 3 channels, the manifest promises 2",
    ),
    "a fixed side": (_fixed(16, 32, 32), {}, "fixed at 16 along z.*allows 1 to 16"),
    "a fixed batch in 2D": (_fixed(32, 32, batch=1, dims=2), FLAT, "batches of 1"),
    "a fixed batch in 3D": (_fixed(16, 32, 32, batch=2), {}, "batches of 2"),
    "another hash": (conv, {"weights_sha256": "0" * 64}, "states weights_sha256 0000"),
}


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize(("make", "fields", "says"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_refused_unrun_and_changes_nothing(
    store: Store,
    tmp_path: Path,
    make: Callable[[], onnx.ModelProto],
    fields: dict[str, Any],
    says: str,
) -> None:
    store.publish(_described(tmp_path), ("live",))
    before = _snapshot(store.root)
    with pytest.raises(ModelRefused, match=says) as caught:
        admit(store, _file(tmp_path, make()), manifest(**fields).to_json(), ("live",))
    json.dumps(caught.value.as_dict())
    assert _snapshot(store.root) == before


def _described(folder: Path) -> Path:
    embed(conv(), manifest(), folder / "own.onnx")
    return folder / "own.onnx"


MANIFESTS = {
    "no JSON": "{",
    "no object": "3",
    "nothing in it": "{}",
    "an unknown field": manifest().to_json().replace('"dims"', '"dimensions"'),
    "an unknown structure": manifest().to_json().replace('"kidney"', '"elbow"'),
    "a bad name": manifest().to_json().replace('"tiny"', '"../tiny"'),
}


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("text", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_none_is_refused(store: Store, tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelRefused) as caught:
        admit(store, _file(tmp_path, conv()), text)
    assert caught.value.details["reason"] == "bad_manifest"
    assert not store.root.exists()


@pytest.mark.usefixtures("untried")
def test_no_model_no_manifest_and_no_room(store: Store, tmp_path: Path) -> None:
    bare = _file(tmp_path, conv())
    with pytest.raises(ModelRefused, match="carries no manifest"):
        admit(store, bare)
    (tmp_path / "ct.onnx").write_bytes(b"\x1f\x8b not a model")
    with pytest.raises(ModelRefused, match="no readable ONNX"):
        check(tmp_path / "ct.onnx", manifest().to_json())
    with pytest.raises(ModelRefused, match="no file"):
        check(tmp_path / "absent.onnx")
    with pytest.raises(InputTooLarge, match="over the limit of 100"):
        check(bare, manifest().to_json(), max_bytes=100)
    with pytest.raises(BadParameter):
        admit(store, _described(tmp_path), aliases=("live", "Not a word"))
    assert not store.root.exists()


def test_a_fixed_patch_is_taken_where_every_input_has_its_size(
    tmp_path: Path, tried: list[Path]
) -> None:
    file = _file(tmp_path, conv(given=[1, 1, 16, 32, 32], made=[1, 3, 16, 32, 32]))
    whole = manifest(patch=(16, 32, 32), divisor=(16, 32, 32))
    assert check(file, whole.to_json()).patch == (16, 32, 32)
    assert len(tried) == 1
    embed(onnx.load(file), whole, tmp_path / "whole.onnx")
    assert trial.problem(tmp_path / "whole.onnx") is None


def _frozen_inside() -> onnx.ModelProto:
    """A graph that promises any size and takes one: a reshape to the size it was traced with."""
    nodes = [
        helper.make_node("Reshape", ["image", "traced"], ["flat"]),
        helper.make_node("Concat", ["flat"] * 3, ["scores"], axis=1),
    ]
    traced = np.int64([1, 1, 16, 32, 32])
    ends = {"given": foreign_graphs.axes(3, 1), "made": foreign_graphs.axes(3, 3)}
    return foreign_graphs.model(nodes, {"traced": traced}, **ends)


def _halved() -> onnx.ModelProto:
    nodes = [
        helper.make_node("AveragePool", ["image"], ["half"], kernel_shape=[2] * 3, strides=[2] * 3),
        helper.make_node("Concat", ["half"] * 3, ["scores"], axis=1),
    ]
    return foreign_graphs.model(
        nodes, {}, given=foreign_graphs.axes(3, 1), made=["n", 3, "a", "b", "c"]
    )


def _without_shape(channels: int) -> onnx.ModelProto:
    made = conv(channels=channels)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


SIGMOID = {"activation": "sigmoid", "outputs": ("pancreas", "kidney", "liver")}
UNRUNNABLE: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, Any], str]] = {
    "another size than traced": (_frozen_inside, {}, "does not run the model on its own patch"),
    "scores of half the size": (_halved, {}, "gave scores of shape"),
    "undeclared channels": (lambda: _without_shape(4), {}, "gave scores of shape"),
    "scores that are not finite": (lambda: conv(bias=np.nan), {}, "not finite"),
    "probabilities of a sigmoid": (lambda: conv(bias=1.0), SIGMOID, "give logits"),
}


@pytest.mark.parametrize(("make", "fields", "says"), UNRUNNABLE.values(), ids=UNRUNNABLE)
def test_what_does_not_run_as_promised_has_a_problem(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], fields: dict[str, Any], says: str
) -> None:
    embed(make(), manifest(**fields), tmp_path / "unfit.onnx")
    assert re.search(says, trial.problem(tmp_path / "unfit.onnx") or "")


def test_what_does_not_run_is_refused_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="gave scores of shape"):
        admit(store, _file(tmp_path, _halved()), manifest().to_json())
    assert not store.root.exists()


def test_a_first_run_ends_at_its_limits_of_time_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.onnx"
    embed(endless(10**9), manifest(), path)
    with pytest.raises(ModelRefused, match="longer than 2 s"):
        trial.attempt(path, seconds=2.0)
    embed(conv(), manifest(patch=(256, 256, 256)), path)
    with pytest.raises(ModelRefused, match="more than 300 MB"):
        trial.attempt(path, memory_mb=300)


def test_a_runtime_that_crashes_takes_nobody_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _described(tmp_path)
    crash = tmp_path / "crash" / "sitecustomize.py"
    crash.parent.mkdir()
    crash.write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(crash.parent))
    with pytest.raises(ModelRefused, match="ended with -6"):
        trial.attempt(path)


def test_the_smallest_input_fits_the_patch_and_the_divisor() -> None:
    assert trial.smallest_input(manifest()) == (16, 16, 16)
    assert trial.smallest_input(manifest(patch=(8, 32, 64), divisor=(8, 8, 32))) == (8, 16, 64)
    flat: Manifest = manifest(
        dims=2, patch=(1, 64, 64), divisor=(1, 4, 4), intensity=Intensity((-1.0, 1.0), "signed")
    )
    assert trial.smallest_input(flat) == (1, 16, 16)
