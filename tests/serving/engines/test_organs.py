"""Whoever asks for whole organs alone gets them from the part of the network that finds organs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from imaging.errors import BadManifest, ModelRefused
from models.door import admit
from models.onnxfile import ORGANS, embed, parse, read_manifest
from models.store import Store, StoredModel
from serving.engines import Engines
from serving.options import Options
from serving.segment import files, segment
from tests.serving.tiny_model import CENTRES, WINDOW, boxes_ct, logits_model

# Tissue from here on is an organ, and below the other a lesion of the pancreas.
_TUMOR_HU = 20.0


def two_steps(path: Path) -> Path:
    """A model that tells pancreas and kidney by brightness, then tumor from pancreas."""
    logits_model(path, "two-steps")
    low, high = WINDOW
    unit = {name: (hu - low) / (high - low) for name, hu in CENTRES.items()}
    # The organ's centre is between those of the gland and of its tumor.
    centres = [unit["background"], (unit["pancreas"] + unit["pancreas_tumor"]) / 2, unit["kidney"]]
    c = np.array(centres, np.float32)
    bound = np.float32((_TUMOR_HU - low) / (high - low))
    free = ["n", 1, "z", "y", "x"]
    nodes = [
        helper.make_node("Conv", ["image", "weight", "bias"], [ORGANS]),
        helper.make_node("Split", [ORGANS], ["none", "pancreas", "kidney"], axis=1, num_outputs=3),
        helper.make_node("Sub", ["image", "bound"], ["gland"]),
        helper.make_node("Neg", ["gland"], ["lesion"]),
        *(
            node
            for name in ("gland", "lesion")
            for node in (
                helper.make_node("Relu", [name], [f"{name} more"]),
                helper.make_node("Sub", ["pancreas", f"{name} more"], [f"without {name}"]),
            )
        ),
        helper.make_node(
            "Concat", ["none", "without lesion", "without gland", "kidney"], ["scores"], axis=1
        ),
    ]
    made = helper.make_graph(
        nodes,
        "two steps",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, free)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4, *free[2:]])],
        [
            numpy_helper.from_array((400 * c).reshape(-1, 1, 1, 1, 1), "weight"),
            numpy_helper.from_array(-200 * c**2, "bias"),
            numpy_helper.from_array(bound, "bound"),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    described = dataclasses.replace(read_manifest(path), organs=("pancreas", "kidney"))
    embed(model, described, path)
    return path


@pytest.fixture
def model(tmp_path: Path, store: Store) -> StoredModel:
    return admit(store, two_steps(tmp_path / "two-steps.onnx"), aliases=["live"])


def asked(*masks: str) -> Options:
    return Options("two-steps", masks)


@pytest.mark.parametrize(
    ("masks", "alone"),
    [
        (("kidney",), True),
        (("pancreas", "kidney"), True),
        (("tumor",), False),
        (("kidney", "pancreas_tumor"), False),
        (("pancreas_parenchyma",), False),
        ((), False),
    ],
)
def test_lesions_are_looked_for_where_a_mask_tells_them_from_organs(
    masks: tuple[str, ...], alone: bool, model: StoredModel
) -> None:
    assert asked(*masks).organs_alone(model.manifest) is alone
    plain = dataclasses.replace(model.manifest, organs=())
    assert not asked(*masks).organs_alone(plain)


def test_whole_organs_are_the_same_and_cost_an_engine_of_their_own(
    ct: Path, store: Store, model: StoredModel
) -> None:
    engines = Engines(store)
    everything = segment(ct, asked("pancreas", "kidney", "tumor"), engines)
    organs = segment(ct, asked("pancreas", "kidney"), engines)
    _, truth = boxes_ct()
    np.testing.assert_array_equal(everything.labels.array, truth)
    np.testing.assert_array_equal(organs.labels.array, np.where(truth == 2, 1, truth))
    for mask in ("pancreas", "kidney"):
        np.testing.assert_array_equal(organs.mask(mask).array, everything.mask(mask).array)
    assert [loaded["organs"] for loaded in engines.loaded()] == [False, True]
    assert engines.get(model, "cpu", organs=True) is engines.get(model, "auto", organs=True)
    assert engines.get(model, "cpu") is not engines.get(model, "cpu", organs=True)


def test_the_report_says_that_no_lesion_was_looked_for(
    ct: Path, store: Store, model: StoredModel
) -> None:
    made = dict(files(segment(ct, asked("pancreas"), Engines(store))))
    report = json.loads(made["report.json"])
    assert report["masks"]["pancreas"]["structures"] == ["pancreas"]
    assert report["masks"]["pancreas"]["not_looked_for"] == ["pancreas_tumor"]
    assert list(report["structures"]) == ["pancreas", "kidney"]
    assert report["model"]["sha256"] == model.sha256


def test_organs_that_the_graph_does_not_have_are_refused(tmp_path: Path, store: Store) -> None:
    path = logits_model(tmp_path / "model.onnx", "no-steps")
    embed(parse(path)[0], dataclasses.replace(read_manifest(path), organs=("kidney",)), path)
    with pytest.raises(ModelRefused, match="organs"):
        admit(store, path)


def test_other_organs_than_the_graph_gives_are_refused(tmp_path: Path, store: Store) -> None:
    path = two_steps(tmp_path / "model.onnx")
    embed(parse(path)[0], dataclasses.replace(read_manifest(path), organs=("kidney",)), path)
    with pytest.raises(ModelRefused, match="scores of shape"):
        admit(store, path)


@pytest.mark.parametrize("organs", [("liver",), ("kidney", "kidney")])
def test_a_manifest_names_organs_among_its_outputs(organs: tuple[str, ...], tmp_path: Path) -> None:
    described = read_manifest(logits_model(tmp_path / "model.onnx", "no-steps"))
    with pytest.raises(BadManifest, match="distinct structures among its outputs"):
        dataclasses.replace(described, organs=organs)
