"""The manifest inside an ONNX file: written, read and checked."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from imaging.errors import BadManifest, CorruptModel
from imaging.files import write_whole
from models.manifest import DIGEST_KEY, FINDER_KEY, METADATA_KEY, Finder, Manifest

# The tensor with organs' scores, in graphs whose manifest names organs.
ORGANS = "organs"
# Operators outside the standard domains could load native code into the server.
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}


def embed(
    model: onnx.ModelProto, manifest: Manifest, path: Path, finder: bytes | None = None
) -> Manifest:
    """Write the graph with its manifest; returns the manifest with the weights' hash set.

    Args:
        model: the graph.
        manifest: what the file will say of itself.
        path: of the file.
        finder: an ONNX file, where the manifest has a finder.
    """
    manifest = dataclasses.replace(manifest, weights_sha256=graph_sha256(model))
    text = manifest.to_json()
    entries = {METADATA_KEY: text, DIGEST_KEY: _digest(text)}
    if finder is not None:
        entries[FINDER_KEY] = base64.b64encode(finder).decode()
    del model.metadata_props[:]
    for key, value in entries.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    write_whole(path, model.SerializeToString())
    return manifest


def read_finder(data: bytes, finder: Finder) -> bytes:
    """The ONNX file of the finder inside a model's.

    Args:
        data: the model's file.
        finder: as its manifest describes it.

    Raises:
        CorruptModel: no ONNX file, or other bytes than the manifest's hash; external data or
            custom operators in them.
    """
    return _finder_of(_parsed(data, "The model"), finder, "The model")


def of_organs(data: bytes, name: str) -> bytes:
    """The part of a model's graph that gives organs' scores, as an ONNX file without a manifest.

    Args:
        data: the model's file, whose manifest names organs.
        name: of the model, for errors.

    Raises:
        CorruptModel: no ONNX file, or none with such scores.
    """
    model = _parsed(data, name)
    graph, wanted, kept = model.graph, {ORGANS}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= _used(node)
    if not kept:
        raise CorruptModel(f"{name} has no scores of its organs alone; export it again.")
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    organs = onnx.helper.make_tensor_value_info(ORGANS, onnx.TensorProto.FLOAT, None)
    part = onnx.helper.make_graph(kept[::-1], ORGANS, graph.input, [organs], weights)
    made = onnx.helper.make_model(
        part, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    found: bytes = made.SerializeToString()
    return found


def _used(node: onnx.NodeProto) -> set[str]:
    """The names of the tensors that a node needs, those of the graphs in it among them."""
    inner = [a.g for a in node.attribute if a.HasField("g")]
    inner += [g for a in node.attribute for g in a.graphs]
    return set(node.input).union(*(_used(n) for graph in inner for n in graph.node))


def redescribe(path: Path, finder_file: bytes | None = None, **changes: Any) -> Manifest:
    """Change fields of a file's manifest; the graph stays as it is, and the finder where it may.

    Args:
        path: of a file that describes itself.
        finder_file: the ONNX file of another finder, which goes with the field ``finder``.
        changes: fields of the manifest.

    Returns:
        The manifest as it is now.

    Raises:
        CorruptModel, BadManifest: see :func:`read_identity`.
    """
    before = read_manifest(path)
    manifest = dataclasses.replace(before, **changes)
    model, data = parse(path)
    if finder_file is None and manifest.finder is not None:
        finder_file = read_finder(data, manifest.finder)
    return embed(model, manifest, path, finder_file)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a file whose weights are the ones it was written with.

    Raises:
        CorruptModel, BadManifest: see :func:`read_identity`.
    """
    return read_identity(path)[0]


def read_identity(path: Path) -> tuple[Manifest, str]:
    """The manifest of a file and the SHA-256 of all its bytes, hexadecimal, from one reading.

    Raises:
        CorruptModel: not an ONNX file, another manifest or other weights than their hashes,
            external data or custom operators.
        BadManifest: an ONNX file without a valid manifest.
    """
    model, data = parse(path)
    name = Path(path).name
    entries = {p.key: p.value for p in model.metadata_props}
    text = entries.get(METADATA_KEY)
    if text is None:
        raise BadManifest(
            f"{name} carries no manifest; write it with `islet export`, or publish it with a "
            "manifest beside it.",
            key=METADATA_KEY,
        )
    # Files of before had no hash of it.
    if entries.get(DIGEST_KEY, _digest(text)) != _digest(text):
        raise CorruptModel(
            f"{name} holds another manifest than it was written with; fetch or export it again."
        )
    manifest = Manifest.from_json(text)
    check_graph(model, name)
    found = graph_sha256(model)
    if found != manifest.weights_sha256:
        raise CorruptModel(
            f"{name} holds weights {found[:12]}, its manifest says "
            f"{str(manifest.weights_sha256)[:12]}; fetch or export it again.",
            found=found,
            expected=manifest.weights_sha256,
        )
    if manifest.finder is not None:
        _finder_of(model, manifest.finder, name)
    return manifest, hashlib.sha256(data).hexdigest()


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The weights of a file by the names that they have in the network they came from.

    Files of :func:`models.export.export` hold every weight that the network's answer needs, as it
    was trained or rounded to half precision. Other exporters fold some into others; what they
    leave is under names of their own.

    Raises:
        CorruptModel, BadManifest: see :func:`read_identity`.
    """
    read_identity(path)
    model, _ = parse(path)
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in model.graph.initializer
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }


def parse(path: Path) -> tuple[onnx.ModelProto, bytes]:
    """The graph of a file, and the bytes it was read from.

    Raises:
        CorruptModel: not an ONNX file.
    """
    name = Path(path).name
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(name, error) from error
    return _parsed(data, name), data


def _parsed(data: bytes, name: str) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> CorruptModel:
    return CorruptModel(
        f"{name} is no readable ONNX file ({type(error).__name__}); export it again."
    )


def _finder_of(model: onnx.ModelProto, finder: Finder, name: str) -> bytes:
    """The finder's file in a model's metadata, when it is the one of the manifest."""
    entry = {p.key: p.value for p in model.metadata_props}.get(FINDER_KEY, "")
    try:
        data = base64.b64decode(entry, validate=True)
    except ValueError:
        data = b""
    if hashlib.sha256(data).hexdigest() != finder.sha256:
        raise CorruptModel(
            f"{name} holds another finder than its manifest says, or none; attach it again with "
            "`islet models finder`."
        )
    check_graph(_parsed(data, f"The finder in {name}"), f"The finder in {name}")
    return data


def graph_sha256(model: onnx.ModelProto) -> str:
    """SHA-256 of a graph without its metadata, hexadecimal."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def check_graph(model: onnx.ModelProto, name: str) -> None:
    """Raise ``CorruptModel`` for external data or operators outside the standard."""
    graphs = list(_graphs(model))
    tensors = [t for g in graphs for t in _tensors(g)]
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors):
        raise CorruptModel(f"{name} keeps weights outside the file; export it as one file.")
    foreign = {n.domain for g in graphs for n in g.node} - _DOMAINS
    if foreign:
        raise CorruptModel(
            f"{name} uses operators of {sorted(foreign)}; export with standard ones."
        )


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Everything in a model that holds nodes: graphs, training graphs, functions, bodies."""
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    for training in model.training_info:
        waiting += [training.initialization, training.algorithm]
    while waiting:
        graph = waiting.pop()
        yield graph
        for attribute in _attributes(graph):
            # Every field is looked at, whatever the attribute says its type is.
            waiting += attribute.graphs
            if attribute.HasField("g"):
                waiting.append(attribute.g)


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
        yield from _dense(graph.sparse_initializer)
    for attribute in _attributes(graph):
        yield from (attribute.t, *attribute.tensors)
        yield from _dense((attribute.sparse_tensor, *attribute.sparse_tensors))


def _attributes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.AttributeProto]:
    """The attributes of a graph's nodes, and a function's defaults."""
    for node in graph.node:
        yield from node.attribute
    if isinstance(graph, onnx.FunctionProto):
        yield from graph.attribute_proto


def _dense(sparse: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _digest(text: str | bytes) -> str:
    """SHA-256 of a manifest; what is no UTF-8 comes out of the file as bytes."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
