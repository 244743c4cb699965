"""OpenVINO beside ONNX Runtime: the same scores, and taken only where the masks are the same."""

from __future__ import annotations

import dataclasses
import gc
import json
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from imaging.errors import BadParameter, Cancelled, CorruptModel, ModelError
from imaging.writers.nifti import write_nifti
from models.onnxfile import embed, parse, read_manifest
from models.store import Store, StoredModel
from serving.engines import Engine, Engines, choice, openvino
from serving.engines.compare import compare, record
from serving.engines.onnx_runtime import OnnxRuntime
from serving.engines.openvino import OpenVino
from tests.models.foreign_graphs import axes, conv, model
from tests.models.manifests import manifest
from tests.models.test_lesion_cascade import exported, scans
from tests.serving.tiny_model import CENTRES, boxes_ct, graph

pytestmark = pytest.mark.skipif(not openvino.usable(), reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where choices are remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "islet" / "runtimes.json"


def again(store: Store, folder: Path, **fields: float) -> StoredModel:
    """The store's starter with a fidelity of its own."""
    path = folder / "again.onnx"
    held = store.resolve("starter")
    made = dataclasses.replace(
        held.manifest, fidelity={k.replace("_", "-"): v for k, v in fields.items()}
    )
    embed(parse(held.path)[0], made, path)
    return store.publish(path)


def deep(layers: int, channels: int = 32) -> onnx.ModelProto:
    """A 3D model of many convolutions, which takes seconds."""
    rng = np.random.default_rng(0)
    weights = {"first": rng.standard_normal((channels, 1, 3, 3, 3)).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["image", "first"], ["h0"], pads=[1] * 6)]
    for at in range(layers):
        weights[f"w{at}"] = rng.standard_normal((channels, channels, 3, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [f"h{at}", f"w{at}"], [f"h{at + 1}"], pads=[1] * 6))
    nodes[-1].output[0] = "scores"
    return model(nodes, weights, given=axes(3, 1), made=axes(3, channels))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", openvino.usable())
def test_scores_are_those_of_onnx_runtime(dims: int, name: str) -> None:
    data = graph(CENTRES, dims).SerializeToString()
    rng = np.random.default_rng(1)
    plain, other = OnnxRuntime(data, "m", "cpu", 1), OpenVino(data, "m", 1, name)
    for side in (4, 9, 16):
        given = rng.random((2, 1, *[side] * dims)).astype(np.float32)
        found, expected = other(given), plain(given)
        gc.collect()
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < (0.2 if "bf16" in name else 1e-4)


@pytest.mark.parametrize("name", openvino.usable())
def test_boxes_that_a_graph_finds_are_those_of_onnx_runtime(name: str, tmp_path: Path) -> None:
    data = exported(tmp_path)[0].read_bytes()
    plain, other = OnnxRuntime(data, "m", "cpu", 1), OpenVino(data, "m", 1, name)
    for x in scans():
        found, expected = other(x.numpy()), plain(x.numpy())
        assert np.abs(found - expected).max() < (0.3 if "bf16" in name else 1e-3)


def test_threads_share_one(store: Store) -> None:
    data = store.resolve("starter").path.read_bytes()
    plain, other = OnnxRuntime(data, "m", "cpu", 1), OpenVino(data, "m", 1, "openvino")

    def same(seed: int) -> bool:
        given = np.random.default_rng(seed).random((1, 1, 8, 8 + seed % 3, 8)).astype(np.float32)
        return bool(np.allclose(other(given), plain(given), atol=1e-4))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, range(64)))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_running_inference_is_stopped_and_the_next_one_runs(name: str) -> None:
    data = deep(40).SerializeToString()
    made = (
        OnnxRuntime(data, "m", "cpu", 1) if name == "onnxruntime" else OpenVino(data, "m", 1, name)
    )
    timer = threading.Timer(0.5, made.stop)
    timer.start()
    with pytest.raises(Cancelled, match="inside the network"):
        made(np.zeros((1, 1, 64, 96, 96), np.float32))
    timer.join()
    assert made(np.zeros((1, 1, 4, 4, 4), np.float32)).shape == (1, 32, 4, 4, 4)


def test_what_does_not_run_is_named() -> None:
    with pytest.raises(CorruptModel, match="OpenVINO cannot run m@1"):
        OpenVino(b"no graph", "m@1", 1, "openvino")
    frozen = conv(given=["n", 1, 4, 4, 4], made=["n", 3, 4, 4, 4]).SerializeToString()
    with pytest.raises(ModelError, match="m@1 on cpu"):
        OpenVino(frozen, "m@1", 1, "openvino")(np.zeros((1, 1, 8, 8, 8), np.float32))


def test_without_a_comparison_onnx_runtime_it_is(store: Store, cache: Path) -> None:
    assert Engine(store.resolve("starter")).runtime == "onnxruntime"
    assert not cache.exists()
    with pytest.raises(BadParameter, match=r"may not run on openvino here.*islet models compare"):
        Engine(store.resolve("starter"), runtime="openvino")
    with pytest.raises(BadParameter, match="no runtime 'tensorflow'"):
        Engine(store.resolve("starter"), runtime="tensorflow")


def test_other_masks_are_refused(store: Store, tmp_path: Path) -> None:
    worse = again(store, tmp_path, openvino=0.9979)
    assert Engine(worse).runtime == "onnxruntime"
    with pytest.raises(BadParameter, match="may not run on openvino"):
        Engine(worse, runtime="openvino")
    same = again(store, tmp_path, openvino=0.998)
    assert Engine(same, runtime="openvino").runtime == "openvino"
    assert Engine(same, runtime="onnxruntime").runtime == "onnxruntime"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What each measurement said; they are turned round, so that the choice can be seen."""
    said: list[dict[str, float]] = []

    def seconds(runtimes: dict[str, object], _: object) -> dict[str, float]:
        said.append({name: 1.0 if name == "onnxruntime" else 0.5 for name in runtimes})
        return said[-1]

    monkeypatch.setattr(choice, "_seconds", seconds)
    return said


def test_the_fastest_is_found_once_a_machine(
    store: Store, tmp_path: Path, cache: Path, measured: list[dict[str, float]]
) -> None:
    same = again(store, tmp_path, openvino=1.0)
    engines = Engines(store)
    assert engines.get(same, "cpu").runtime == "openvino"
    assert engines.loaded()[0]["runtime"] == "openvino"
    assert Engine(same).runtime == "openvino"
    assert len(measured) == 1
    assert set(measured[0]) == {"openvino", "onnxruntime"}
    # On another machine or for other threads it may be another one, and what is broken on disk is
    # measured again.
    (key,) = json.loads(cache.read_text())
    assert platform.node() in key
    assert f"openvino-{version('openvino')}" in key
    Engine(same, threads=7)
    cache.write_text("[")
    assert Engine(same).runtime == "openvino"
    assert len(measured) == 3
    # A choice that is no longer allowed is none.
    cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_text()), "tensorflow")))
    assert Engine(same).runtime == "openvino"
    assert len(measured) == 4


def test_a_place_that_cannot_be_written_costs_a_measurement(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Engine(again(store, tmp_path, openvino=1.0)).runtime in ("openvino", "onnxruntime")


@pytest.mark.parametrize(
    ("where", "name", "error"),
    [
        (choice, "OpenVino", CorruptModel("no")),
        (OpenVino, "__call__", ModelError("no memory")),
    ],
    ids=["opening", "running"],
)
def test_a_runtime_that_fails_is_left_out(
    where: object,
    name: str,
    error: Exception,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: list[dict[str, float]],
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(where, name, failing)
    assert Engine(again(store, tmp_path, openvino=1.0)).runtime == "onnxruntime"
    assert list(measured[0]) == ["onnxruntime"]


def test_a_model_that_may_not_run_on_it_does_not_load_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> tuple[str, ...]:
        raise AssertionError("OpenVINO was loaded")

    monkeypatch.setattr(openvino, "usable", asked)
    assert Engine(store.resolve("starter")).runtime == "onnxruntime"


def test_masks_are_compared_and_the_manifest_holds_it(store: Store, ct: Path) -> None:
    path = store.resolve("starter").path
    found = compare(path, [ct, ct])
    assert set(found) == set(openvino.usable())
    assert found["openvino"] == 1.0
    before = read_manifest(path)
    after = record(path, {**found, "openvino": 0.5})
    assert read_manifest(path) == after
    assert after.fidelity["openvino"] == 0.5
    assert dataclasses.replace(after, fidelity={}) == before


def test_a_runtime_that_marks_other_voxels_is_found_out(
    store: Store, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(*_: object) -> object:
        plain = OnnxRuntime(store.resolve("starter").path.read_bytes(), "m", "cpu", 1)
        return lambda patches: np.roll(plain(patches), 1, axis=-1)

    monkeypatch.setattr("serving.engines.compare.OpenVino", shifted)
    assert max(compare(store.resolve("starter").path, [ct]).values()) < 0.99


def test_nothing_to_compare_is_refused(
    store: Store, ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.resolve("starter").path
    air = np.full(boxes_ct()[0].array.shape, -100, np.int16)
    write_nifti(boxes_ct()[0].with_array(air), tmp_path / "air.nii.gz")
    with pytest.raises(BadParameter, match="finds nothing in these CTs"):
        compare(path, [tmp_path / "air.nii.gz"])
    with pytest.raises(BadParameter, match="at least one CT"):
        compare(path, [])
    monkeypatch.setattr(openvino, "usable", lambda: ())
    with pytest.raises(BadParameter, match="a further runtime"):
        compare(path, [ct])


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_fidelity_is_a_dice(value: float) -> None:
    with pytest.raises(Exception, match="must be Dice"):
        manifest(fidelity={"openvino": value})
