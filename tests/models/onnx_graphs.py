"""Small ONNX files, sound and otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.manifest import Manifest
from models.onnxfile import embed
from tests.models.manifests import manifest


def sound(factor: float = 2.0, nodes: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    """One multiplication, or other nodes from ``image`` to ``scores``."""
    free = ["n", 1, "z", "y", "x"]
    graph = helper.make_graph(
        nodes or [helper.make_node("Mul", ["image", "factor"], ["scores"])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, free)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, free)],
        [numpy_helper.from_array(np.array([factor], np.float32), "factor")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def write(path: Path, made: Manifest | None = None, factor: float = 2.0) -> Path:
    """A file with its manifest."""
    embed(sound(factor), made or manifest(), path)
    return path
