"""A finder comes into a model's file when the masks stay the same, and then spares voxels there."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

import islet
from imaging.errors import BadParameter, CorruptModel, ModelRefused
from imaging.geometry import Geometry
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.door import admit
from models.manifest import FINDER_KEY, Intensity, Sampling
from models.onnxfile import embed, parse, read_finder, read_manifest, redescribe
from models.predict import predict
from models.store import Store
from serving.engines import Engine
from serving.engines.attach import attach
from serving.engines.compare import record
from tests.models.manifests import manifest
from tests.serving.tiny_model import CENTRES, WINDOW, graph

ORGAN = np.s_[20:30, 24:40, 50:70]


def tiny(path: Path, name: str, spacing: float | None = None, **fields: object) -> Path:
    """A model whose scores are logits."""
    made = graph(CENTRES, 3)
    del made.graph.node[1]
    made.graph.node[0].output[0] = made.graph.output[0].name
    described = manifest(
        name=name,
        sampling=Sampling((spacing,) * 3),
        intensity=Intensity(WINDOW),
        outputs=tuple(CENTRES)[1:],
        patch=(32, 64, 64),
        **fields,
    )
    embed(made, described, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny(tmp_path / "model.onnx", "tiny")


@pytest.fixture
def finder(tmp_path: Path) -> Path:
    return tiny(tmp_path / "finder.onnx", "tiny-finder", 8.0)


@pytest.fixture
def volume() -> Volume:
    hu = np.full((48, 60, 90), -100, np.int16)
    hu[ORGAN] = CENTRES["kidney"]
    return Volume(hu, Geometry(hu.shape, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), np.eye(3)[:, ::-1]))


@pytest.fixture
def ct(tmp_path: Path, volume: Volume) -> Path:
    write_nifti(volume, tmp_path / "ct.nii.gz")
    return tmp_path / "ct.nii.gz"


def test_it_is_measured_written_and_used(
    model: Path, finder: Path, ct: Path, volume: Volume, store: Store
) -> None:
    plain = read_manifest(model)
    spared = attach(model, finder, [ct, ct], 10.0)
    assert spared.dice == 1
    assert spared.visited < 0.5
    assert (spared.everywhere, spared.cts) == (0, 2)
    made = read_manifest(model)
    assert made.finder is not None
    assert made.finder.fitted == dataclasses.asdict(spared)
    assert dataclasses.replace(made, finder=None) == plain
    assert read_finder(model.read_bytes(), made.finder) == finder.read_bytes()

    engine = Engine(admit(store, model), threads=1, runtime="onnxruntime")
    assert engine.finder is not None
    whole = predict(volume, made, engine).labels.array
    part = predict(volume, made, engine, finder=engine.finder).labels.array
    assert (whole[ORGAN] == 3).all()
    np.testing.assert_array_equal(part, whole)


def test_a_model_without_one_has_none(model: Path, store: Store) -> None:
    assert Engine(admit(store, model), threads=1).finder is None


def test_it_stays_when_the_manifest_is_changed(model: Path, finder: Path, ct: Path) -> None:
    attach(model, finder, [ct], 10.0)
    described = read_manifest(model).finder
    assert record(model, {"openvino": 0.5}).finder == described
    assert read_manifest(model).fidelity == {"openvino": 0.5}
    redescribe(model, finder=None)
    assert [p.key for p in parse(model)[0].metadata_props] == ["islet.manifest"]


def test_masks_that_change_are_refused_and_the_file_stays(
    model: Path, finder: Path, tmp_path: Path, volume: Volume
) -> None:
    """A rod of one voxel's width, far from the organ, is lost in the finder's blocks."""
    before = model.read_bytes()
    hu = volume.array.copy()
    hu[4, :, 4] = CENTRES["kidney"]
    write_nifti(volume.with_array(hu), tmp_path / "rod.nii.gz")
    with pytest.raises(BadParameter, match="raise --margin") as caught:
        attach(model, finder, [tmp_path / "rod.nii.gz"], 4.0)
    assert 0.98 < caught.value.details["dice"] < 0.995
    assert model.read_bytes() == before
    # With as much around that the box holds the rod, it is taken.
    assert attach(model, finder, [tmp_path / "rod.nii.gz"], 200.0).everywhere == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"activation": "sigmoid"}, "no finder"),
        ({"intensity": Intensity((-100.0, 300.0))}, "sees"),
        ({"sampling": Sampling((8.0, 8.0, 4.0))}, "no finder"),
        ({"sampling": Sampling((None, None, None))}, "no finder"),
        ({"outputs": ("pancreas", "kidney", "liver")}, "pancreas_tumor"),
    ],
)
def test_what_is_no_finder_of_it_is_refused(
    model: Path, finder: Path, ct: Path, fields: dict[str, object], words: str
) -> None:
    other = dataclasses.replace(read_manifest(finder), **fields)  # type: ignore[arg-type]
    embed(parse(finder)[0], other, finder)
    with pytest.raises(BadParameter, match=words):
        attach(model, finder, [ct], 10.0)


def test_without_a_ct_or_a_mask_nothing_is_known(
    model: Path, finder: Path, tmp_path: Path, volume: Volume
) -> None:
    with pytest.raises(BadParameter, match="at least one"):
        attach(model, finder, [], 10.0)
    write_nifti(volume.with_array(np.full_like(volume.array, -100)), tmp_path / "air.nii.gz")
    with pytest.raises(BadParameter, match="finds nothing"):
        attach(model, finder, [tmp_path / "air.nii.gz"], 10.0)


@pytest.mark.parametrize("change", ["gone", "other", "no base64"])
def test_another_finder_than_the_manifest_says_is_refused(
    model: Path, finder: Path, ct: Path, change: str
) -> None:
    attach(model, finder, [ct], 10.0)
    proto = onnx.load(model)
    for entry in proto.metadata_props:
        if entry.key == FINDER_KEY:
            entry.value = {"gone": "", "other": "AAAA", "no base64": "?"}[change]
    onnx.save(proto, model)
    with pytest.raises(CorruptModel, match="another finder"):
        read_manifest(model)


def test_the_command_says_what_is_spared(
    model: Path, finder: Path, ct: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert islet.main(["models", "finder", str(model), str(finder), str(ct), "--margin", "12"]) == 0
    assert "of the voxels (all of 0 of 1 CTs)" in capsys.readouterr().out
    described = read_manifest(model).finder
    assert described is not None
    assert described.margin_mm == 12


def test_a_finder_that_does_not_run_is_found_at_the_door(
    model: Path, finder: Path, ct: Path, store: Store
) -> None:
    attach(model, finder, [ct], 10.0)
    made = onnx.load(finder)
    made.graph.node[0].input[1] = "bias"
    described = read_manifest(model).finder
    assert described is not None
    data = made.SerializeToString()
    other = dataclasses.replace(described, sha256=hashlib.sha256(data).hexdigest())
    redescribe(model, data, finder=other)
    with pytest.raises(ModelRefused):
        admit(store, model)
