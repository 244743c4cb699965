"""Real ONNX models of one convolution, so that the whole pipeline runs without training or torch.

Scores are 2 c x - c^2 for each class's centre c: the largest is the class whose centre is nearest
to the normalised voxel x, so every label can be told from the Hounsfield units by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from imaging.geometry import Geometry
from imaging.volume import Volume
from models.manifest import Intensity, Manifest, Provenance, Sampling
from models.onnxfile import embed
from models.store import Store, StoredModel

WINDOW = (-200.0, 300.0)
# Hounsfield units at the centre of each class.
CENTRES = {"background": -100.0, "pancreas": 40.0, "pancreas_tumor": 0.0, "kidney": 150.0}
_SHARPNESS = 200.0


def graph(centres: dict[str, float], dims: int) -> onnx.ModelProto:
    """A 1x1 (or 1x1x1) convolution and a softmax over the classes."""
    low, high = WINDOW
    c = np.array([(hu - low) / (high - low) for hu in centres.values()], np.float32)
    weight = (_SHARPNESS * 2 * c).reshape(-1, 1, *[1] * dims)
    free = ["n", 1, *"zyx"[3 - dims :]]
    nodes = [
        helper.make_node("Conv", ["image", "weight", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, free)],
        [
            helper.make_tensor_value_info(
                "probabilities", TensorProto.FLOAT, ["n", len(c), *free[2:]]
            )
        ],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(-_SHARPNESS * c**2, "bias"),
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def publish(
    store: Store,
    folder: Path,
    name: str = "starter",
    dims: int = 3,
    centres: dict[str, float] = CENTRES,
) -> StoredModel:
    """Publish the next version of a tiny model, live."""
    manifest = Manifest(
        name=name,
        architecture="tiny",
        sampling=Sampling((None, None, None)),
        intensity=Intensity(WINDOW),
        dims=dims,
        patch=(1 if dims == 2 else 16, 32, 32),
        outputs=tuple(centres)[1:],
        provenance=Provenance("test"),
    )
    path = folder / f"{name}-{dims}.onnx"
    embed(graph(centres, dims), manifest, path)
    return store.publish(path)


def logits_model(path: Path, name: str, spacing: float | None = None) -> Path:
    """A 3D model whose scores are logits, at one spacing or on the CT's own grid."""
    made = graph(CENTRES, 3)
    del made.graph.node[1]
    made.graph.node[0].output[0] = made.graph.output[0].name
    described = Manifest(
        name=name,
        architecture="tiny",
        dims=3,
        provenance=Provenance("test"),
        sampling=Sampling((spacing,) * 3),
        intensity=Intensity(WINDOW),
        outputs=tuple(CENTRES)[1:],
        patch=(32, 64, 64),
    )
    embed(made, described, path)
    return path


def boxes_ct(shape: tuple[int, int, int] = (20, 40, 48)) -> tuple[Volume, np.ndarray]:
    """A CT of three boxes at the class centres, and its true label map; both (Z, Y, X)."""
    hu = np.full(shape, -100, np.int16)
    labels = np.zeros(shape, np.uint8)
    for box, name, value in (
        (np.s_[4:12, 6:16, 8:20], "pancreas", 1),
        (np.s_[6:9, 8:12, 10:14], "pancreas_tumor", 2),
        (np.s_[0:10, 24:36, 30:48], "kidney", 3),
    ):
        hu[box] = CENTRES[name]
        labels[box] = value
    geometry = Geometry(shape, (2.5, 0.8, 0.9), (-100.0, -50.0, 30.0), np.eye(3)[:, ::-1])
    return Volume(hu, geometry), labels
