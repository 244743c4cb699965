"""Weights kept in half precision: a file of half the size that computes with float32 as before."""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

# Norms and biases are few, and the more delicate.
_MANY = 1024
_WIDE = ".float32"


def rounded(network: nn.Module) -> nn.Module:
    """A copy of a network whose large weights are values of float16, in float32."""
    result = copy.deepcopy(network)
    for weight in result.parameters():
        if weight.numel() >= _MANY:
            weight.data = weight.data.half().float()
    return result


def store_halves(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph whose large float32 weights are stored as float16, cast where they are used.

    Exact for weights of :func:`rounded`. They keep their names, for
    :func:`models.onnxfile.read_weights`; runtimes fold the casts when they load the file.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    casts = []
    for tensor in result.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and values.size >= _MANY:
            wide = tensor.name + _WIDE
            casts.append(helper.make_node("Cast", [tensor.name], [wide], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    renamed = {cast.input[0]: cast.output[0] for cast in casts}
    nodes = list(result.graph.node)
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del result.graph.node[:]
    result.graph.node.extend([*casts, *nodes])
    return result
