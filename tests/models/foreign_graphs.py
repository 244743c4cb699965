"""ONNX graphs as they come from elsewhere: without a manifest, some of them unfit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Axes = list[str | int]


def axes(dims: int, channels: str | int) -> Axes:
    """(batch, channel, sides), all of any length but the channels."""
    return ["n", channels, *"zyx"[3 - dims :]]


def model(nodes: list[onnx.NodeProto], weights: dict[str, Any], **ends: Any) -> onnx.ModelProto:
    """A graph from ``image`` to ``scores``; ``given`` and ``made`` are the declared axes."""
    kind = ends.get("kind", TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info("image", kind, ends["given"])],
        [helper.make_tensor_value_info("scores", kind, ends["made"])],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def conv(
    dims: int = 3,
    channels: int = 3,
    given: Axes | None = None,
    made: Axes | None = None,
    bias: float = 0.0,
) -> onnx.ModelProto:
    """A 1x1 convolution with other declared axes where they are given."""
    factors = np.linspace(-1, 1, channels, dtype=np.float32).reshape(-1, 1, *[1] * dims)
    weights = {"weight": factors, "bias": np.full(channels, bias, np.float32)}
    return model(
        [helper.make_node("Conv", ["image", "weight", "bias"], ["scores"])],
        weights,
        given=given or axes(dims, 1),
        made=made or axes(dims, channels),
    )


def endless(trips: int, channels: int = 3) -> onnx.ModelProto:
    """A 3D model that adds its input to itself again and again: a second a million trips or so."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["value", "step"], ["grown"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("grown", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(np.float32([1e-6]), "step")],
    )
    nodes = [
        helper.make_node("Concat", ["image"] * channels, ["start"], axis=1),
        helper.make_node("Loop", ["trips", "true", "start"], ["scores"], body=body),
    ]
    weights = {"trips": np.int64(trips), "true": np.True_}
    return model(nodes, weights, given=axes(3, 1), made=axes(3, channels))
