"""A finder in a model's file is loaded with it, spares voxels, and is refused where it is none."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from imaging.errors import CorruptModel, ModelRefused
from imaging.geometry import Geometry
from imaging.volume import Volume
from models.door import admit
from models.finder import described
from models.manifest import DIGEST_KEY, FINDER_KEY, METADATA_KEY, Manifest
from models.onnxfile import parse, read_finder, read_manifest, redescribe
from models.predict import predict
from models.store import Store
from serving.engines import Engine
from serving.engines.compare import record
from tests.serving.tiny_model import CENTRES, logits_model

ORGAN = np.s_[20:30, 24:40, 50:70]


def put(model: Path, finder: Path) -> Manifest:
    """Put a finder into a model's file."""
    data = finder.read_bytes()
    made = described(read_manifest(model), read_manifest(finder), data)
    return redescribe(model, data, finder=dataclasses.replace(made, margin_mm=10.0))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return logits_model(tmp_path / "model.onnx", "tiny")


@pytest.fixture
def finder(tmp_path: Path) -> Path:
    return logits_model(tmp_path / "finder.onnx", "tiny-finder", 8.0)


@pytest.fixture
def volume() -> Volume:
    hu = np.full((48, 60, 90), -100, np.int16)
    hu[ORGAN] = CENTRES["kidney"]
    return Volume(hu, Geometry(hu.shape, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), np.eye(3)[:, ::-1]))


def test_it_is_written_loaded_and_used(
    model: Path, finder: Path, volume: Volume, store: Store
) -> None:
    plain = read_manifest(model)
    made = put(model, finder)
    assert made.finder is not None
    assert dataclasses.replace(made, finder=None) == plain
    assert read_finder(model.read_bytes(), made.finder) == finder.read_bytes()

    engine = Engine(admit(store, model), threads=1, runtime="onnxruntime")
    assert engine.finder is not None
    voxels = []

    def counting(patches: np.ndarray) -> np.ndarray:
        voxels.append(patches.size)
        return np.asarray(engine(patches))

    whole = predict(volume, made, counting).labels.array
    everywhere = sum(voxels)
    part = predict(volume, made, counting, finder=engine.finder).labels.array
    assert (whole[ORGAN] == 3).all()
    np.testing.assert_array_equal(part, whole)
    assert sum(voxels) - everywhere < everywhere / 2


def test_a_model_without_one_has_none(model: Path, store: Store) -> None:
    assert Engine(admit(store, model), threads=1).finder is None


def test_it_stays_when_the_manifest_is_changed(model: Path, finder: Path) -> None:
    made = put(model, finder).finder
    assert record(model, {"openvino": 0.5}).finder == made
    assert read_manifest(model).fidelity == {"openvino": 0.5}
    redescribe(model, finder=None)
    assert [p.key for p in parse(model)[0].metadata_props] == [METADATA_KEY, DIGEST_KEY]


@pytest.mark.parametrize("change", ["gone", "other", "no base64"])
def test_another_finder_than_the_manifest_says_is_refused(
    model: Path, finder: Path, change: str
) -> None:
    put(model, finder)
    proto = onnx.load(model)
    for entry in proto.metadata_props:
        if entry.key == FINDER_KEY:
            entry.value = {"gone": "", "other": "AAAA", "no base64": "?"}[change]
    onnx.save(proto, model)
    with pytest.raises(CorruptModel, match="another finder"):
        read_manifest(model)


def test_a_finder_that_does_not_run_is_found_at_the_door(
    model: Path, finder: Path, store: Store
) -> None:
    made = put(model, finder).finder
    assert made is not None
    broken = onnx.load(finder)
    broken.graph.node[0].input[1] = "bias"
    data = broken.SerializeToString()
    other = dataclasses.replace(made, sha256=hashlib.sha256(data).hexdigest())
    redescribe(model, data, finder=other)
    with pytest.raises(ModelRefused):
        admit(store, model)
