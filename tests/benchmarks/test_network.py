"""The network benchmark at toy size: what it measures and reports, not how fast anything is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import network, roofline
from benchmarks.network import BARS, Network, Settings, fastest, fidelity, measure
from benchmarks.roofline import Rates, least_seconds, operations, traffic
from imaging.errors import BadParameter, CorruptModel
from models import architectures
from models.manifest import Provenance
from models.onnxfile import read_manifest
from models.store import Store
from serving.engines import RUNTIMES, openvino
from serving.engines.onnx_runtime import OnnxRuntime
from training.package import export_recipe
from training.recipe import Recipe
from training.recipes import recipe as named_recipe
from training.trainer import initial_network

TOY = Settings(slices=3, size=32, repeats=1, larger=())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's rates from small work."""
    monkeypatch.setattr(roofline, "_SIDE", 64)
    monkeypatch.setattr(roofline, "_COPIED", 2**16)
    monkeypatch.setattr(roofline, "_AT_LEAST_S", 0.01)


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    return named_recipe("monet", "tiny")


@pytest.fixture(scope="module")
def file(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "monet.onnx"
    export_recipe(initial_network(tiny), tiny, Provenance(tiny.name), path)
    return path


@pytest.fixture(scope="module")
def given() -> np.ndarray:
    return np.random.default_rng(0).random((2, 1, 32, 32), np.float32)


def test_all_sides_are_measured_and_compared() -> None:
    result = measure(TOY)
    assert list(result.sides) == [
        "engine",
        "torch_eager",
        "onnxruntime_defaults",
        "unet16_onnxruntime_defaults",
        "unet16_engine",
    ]
    assert all(len(seconds) == 1 for seconds in result.sides.values())
    for name in BARS:
        (above,) = result.sides[name.removesuffix("_to_engine")]
        assert result.ratios[name] == pytest.approx(above / result.sides["engine"][0])
    found = json.loads(json.dumps(result.to_json()))
    assert found["runtime"] in RUNTIMES
    assert set(found["dice"]) == {"monet", "unet16"}
    assert set(found["dice"]["monet"]) == set(openvino.usable())
    assert found["line"]["value"] == found["roofline"]["least_s"] > 0


def test_a_model_of_the_store_takes_monets_sides(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISLET_STORE", str(tmp_path))
    Store(tmp_path).publish(file)
    found = measure(dataclasses.replace(TOY, model="monet")).to_json()
    assert found["weights"] == "monet"
    # Nobody has compared its masks, so the engine runs it in ONNX Runtime.
    assert found["runtime"] == OnnxRuntime.name
    assert found["dice"]["monet"] == {}


def test_a_model_that_torch_cannot_run_is_refused(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISLET_STORE", str(tmp_path))
    wider = dataclasses.replace(tiny, options={"filters": 8})
    path = tmp_path / "wider.onnx"
    export_recipe(initial_network(wider), wider, Provenance(tiny.name), path)
    Store(tmp_path).publish(path)
    with pytest.raises(BadParameter, match="no plain monet"):
        measure(dataclasses.replace(TOY, model="monet"))


def test_a_3d_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISLET_STORE", str(tmp_path))
    with pytest.raises(BadParameter, match="3 dimensions"):
        measure(dataclasses.replace(TOY, model="starter"))


def test_other_masks_are_not_the_engines_choice(
    tiny: Recipe, file: Path, given: np.ndarray
) -> None:
    manifest = dataclasses.replace(
        read_manifest(file), fidelity=dict.fromkeys(openvino.usable(), 0.99)
    )
    runtime, seconds = fastest(Network(initial_network(tiny), file, manifest), given)
    assert runtime == OnnxRuntime.name
    assert list(seconds) == [OnnxRuntime.name]


@pytest.mark.skipif(not openvino.usable(), reason="OpenVINO is not installed")
def test_what_masks_share_is_counted(
    file: Path, given: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_manifest(file)
    assert fidelity(file, whole, given)["openvino"] == pytest.approx(1.0)
    monkeypatch.setattr(
        network.OpenVino, "__call__", lambda self, patches: np.full_like(patches, -1)
    )
    assert set(fidelity(file, whole, given).values()) == {0.0}


def test_a_runtime_that_fails_is_left_out(
    file: Path,
    given: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object) -> None:
        raise CorruptModel("no such operator")

    monkeypatch.setattr(network, "OpenVino", fail)
    monkeypatch.setattr(openvino, "usable", lambda: ("openvino",))
    assert fidelity(file, read_manifest(file), given) == {}
    assert "no such operator" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [{"slices": 0}, {"repeats": 0}, {"size": 16}, {"size": 40}, {"larger": ("unet16",)}]
)
def test_what_cannot_be_measured_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        Settings(**wrong)  # type: ignore[arg-type]


def test_operations_are_counted() -> None:
    layer = torch.nn.Conv2d(2, 3, 3, padding=1, bias=False)
    # Of every value a product and a sum for each of 2 x 3 x 3 weights.
    assert operations(layer, torch.zeros(4, 2, 8, 8)) == 4 * 3 * 8 * 8 * 2 * 2 * 3 * 3
    monet = architectures.build("monet")
    one = operations(monet, torch.zeros(1, 1, 32, 32))
    assert operations(monet, torch.zeros(2, 1, 32, 32)) == 2 * one


def test_the_least_time_is_of_what_takes_longer() -> None:
    rates = Rates({"f32": 100.0, "bf16": 200.0}, 10.0)
    assert least_seconds(1000, 20, rates, "f32") == 10.0
    assert least_seconds(1000, 20, rates, "bf16") == 5.0
    assert least_seconds(1000, 200, rates, "f32") == 20.0
    layer = torch.nn.Linear(4, 5)
    assert (traffic(layer, "f32", 7), traffic(layer, "bf16", 7)) == (4 * 25 + 7, 2 * 25 + 7)


def test_rates_are_measured_and_the_threads_left_as_they_were() -> None:
    before = torch.get_num_threads()
    found = roofline.rates(1)
    assert torch.get_num_threads() == before
    assert set(found.product) == {"f32", "bf16"}
    assert min(*found.product.values(), found.copy) > 0
