from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from imaging.errors import BadManifest, CorruptModel, ModelError
from models.manifest import DIGEST_KEY, METADATA_KEY
from models.onnxfile import embed, read_identity, read_manifest
from tests.models.manifests import manifest
from tests.models.onnx_graphs import sound, write


def test_the_manifest_comes_back_with_the_weights_hash(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tiny.onnx"
    made = embed(sound(), manifest(), path)
    assert read_manifest(path) == made
    assert len(made.weights_sha256 or "") == 64
    assert made.weights_sha256 != embed(sound(3.0), manifest(), path).weights_sha256
    assert read_identity(path)[1] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_embedding_again_replaces_the_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")
    again = embed(onnx.load(path), manifest(name="other"), path)
    assert read_manifest(path) == again
    assert [p.key for p in onnx.load(path).metadata_props] == [METADATA_KEY, DIGEST_KEY]


def test_the_runtime_runs_the_file_and_sees_the_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert METADATA_KEY in session.get_modelmeta().custom_metadata_map
    image = np.ones((1, 1, 2, 3, 4), np.float32)
    np.testing.assert_array_equal(session.run(None, {"image": image})[0], 2 * image)


def test_the_name_of_a_file_does_not_choose_its_format(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx").rename(tmp_path / "tiny.json")
    assert read_manifest(path).name == "tiny"


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32([9]), "factor"))
    onnx.save(model, path)
    with pytest.raises(CorruptModel, match="its manifest says") as caught:
        read_manifest(path)
    json.dumps(caught.value.as_dict())


def test_a_manifest_without_a_hash_is_refused(tmp_path: Path) -> None:
    model = sound()
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, manifest().to_json()
    onnx.save(model, tmp_path / "tiny.onnx")
    with pytest.raises(CorruptModel):
        read_manifest(tmp_path / "tiny.onnx")


def test_no_manifest_is_refused(tmp_path: Path) -> None:
    onnx.save(sound(), tmp_path / "bare.onnx")
    with pytest.raises(BadManifest, match="carries no manifest"):
        read_manifest(tmp_path / "bare.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelError):
        read_manifest(tmp_path / "empty.onnx")
    with pytest.raises(CorruptModel):
        read_manifest(tmp_path / "absent.onnx")


@given(st.binary(max_size=200))
@example(b"\x00" * 100)
@example(b"PK\x03\x04")
def test_garbage_is_refused_by_name(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(garbage)
    with pytest.raises(ModelError):
        read_manifest(path)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_byte_changes_the_model_unseen(tmp_path: Path, at: int, flip: int) -> None:
    path = write(tmp_path / "tiny.onnx")
    made, whole = read_manifest(path), bytearray(path.read_bytes())
    whole[at % len(whole)] ^= flip
    path.write_bytes(whole)
    try:
        found = read_manifest(path)
    except ModelError:
        return
    assert found == made


def _external(tensor: onnx.TensorProto) -> onnx.TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    place = tensor.external_data.add()
    place.key, place.value = "location", "weights.bin"
    return tensor


def _tensor(name: str = "t") -> onnx.TensorProto:
    return numpy_helper.from_array(np.float32([1]), name)


def _relu(domain: str = "com.evil") -> onnx.NodeProto:
    return helper.make_node("Relu", ["image"], ["scores"], domain=domain)


def _body(*nodes: onnx.NodeProto, tensors: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", [], [], list(tensors))


def _if(body: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["c"], ["scores"], then_branch=_body(), else_branch=body)


def _loop(body: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("Loop", ["n", "c"], ["scores"], body=body)


def _function(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    model = sound()
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("", "Own", ["image"], ["scores"], nodes, imports))
    return model


def _with_sparse() -> onnx.ModelProto:
    model = sound()
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(_external(_tensor()))
    return model


def _with_initializer() -> onnx.ModelProto:
    model = sound()
    _external(model.graph.initializer[0])
    return model


def _constant(**attribute: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["scores"], **attribute)


UNSAFE: dict[str, Callable[[], onnx.ModelProto]] = {
    "foreign node": lambda: sound(nodes=[_relu()]),
    "foreign node in a branch": lambda: sound(nodes=[_if(_body(_relu()))]),
    "foreign node in a loop in a branch": lambda: sound(nodes=[_if(_body(_loop(_body(_relu()))))]),
    "foreign node in a function": lambda: _function(_relu()),
    "foreign node in a function's branch": lambda: _function(_if(_body(_relu()))),
    "external initializer": _with_initializer,
    "external sparse initializer": _with_sparse,
    "external constant": lambda: sound(nodes=[_constant(value=_external(_tensor()))]),
    "external initializer in a branch": lambda: sound(
        nodes=[_if(_body(tensors=(_external(_tensor()),)))]
    ),
    "external constant in a function": lambda: _function(_constant(value=_external(_tensor()))),
}


@pytest.mark.parametrize("make", UNSAFE.values(), ids=UNSAFE)
def test_foreign_operators_and_outside_weights_are_refused(tmp_path: Path, make) -> None:
    path = tmp_path / "unsafe.onnx"
    embed(make(), manifest(), path)
    with pytest.raises(CorruptModel, match=r"com\.evil|outside the file"):
        read_manifest(path)


def test_branches_and_functions_of_standard_operators_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "safe.onnx"
    embed(sound(nodes=[_if(_body(_loop(_body(_relu("ai.onnx")))))]), manifest(), path)
    assert read_manifest(path).name == "tiny"
    embed(_function(_relu("")), manifest(), path)
    assert read_manifest(path).name == "tiny"
