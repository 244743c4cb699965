"""What a model from elsewhere must pass before the store takes it in.

A file either describes itself or comes with a manifest beside it, which is then written into the
copy that is stored. It is looked at first (size, operators, hash, shapes) and then run once, in a
process of its own (``models.trial``). A model that Islet exported itself was held to its network
then; it goes to ``Store.publish`` directly.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx

from imaging.errors import InputTooLarge, ModelError, ModelRefused
from imaging.limits import MIB
from models.manifest import Manifest
from models.onnxfile import (
    ORGANS,
    check_graph,
    embed,
    graph_sha256,
    parse,
    read_finder,
    read_manifest,
)
from models.store import Store, StoredModel, check_alias
from models.trial import attempt

# What protobuf holds in one message.
MAX_BYTES = 2048 * MIB - 1

_AXES = "zyx"


def admit(
    store: Store,
    file: Path,
    manifest: str | None = None,
    aliases: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
) -> StoredModel:
    """Publish a model from elsewhere as the next version of its name.

    Args:
        store: where to.
        file: ONNX.
        manifest: JSON, where the file does not describe itself; it wins over one inside.
        aliases: to point at the new version; without one nothing moves.
        max_bytes: of the file.

    Raises:
        ModelRefused, InputTooLarge: see :func:`check`; nothing is changed.
        BadParameter: an alias that is not a word; nothing is changed.
    """
    for alias in aliases:
        check_alias(alias)
    with _passed(file, manifest, max_bytes) as (path, _):
        return store.publish(path, aliases)


def check(file: Path, manifest: str | None = None, max_bytes: int = MAX_BYTES) -> Manifest:
    """Everything that :func:`admit` asks, and nothing changed; the manifest as it would be stored.

    Raises:
        InputTooLarge: over ``max_bytes``.
        ModelRefused: no ONNX file; other operators than the standard ones; weights in other files;
            no valid manifest; another hash than the manifest states; input or scores of other
            shapes than it promises; or it does not run on a patch.
    """
    with _passed(file, manifest, max_bytes) as (_, found):
        return found


@contextmanager
def _passed(file: Path, manifest: str | None, max_bytes: int) -> Iterator[tuple[Path, Manifest]]:
    """A self-describing file that has passed, for as long as the block lasts."""
    if not file.is_file():
        raise ModelRefused(f"There is no file {file}; name an ONNX file.")
    size = file.stat().st_size
    if size > max_bytes:
        raise InputTooLarge(
            f"The model has {size} bytes, over the limit of {max_bytes} ({max_bytes // MIB} MiB); "
            "raise ISLET_MODEL_MEMORY_MB or export a smaller one.",
            limit=max_bytes,
        )
    with tempfile.TemporaryDirectory(prefix="islet-model-") as folder:
        path = file if manifest is None else Path(folder) / "model.onnx"
        try:
            if manifest is not None:
                _describe(file, manifest, path)
            found = read_manifest(path)
        except ModelError as error:
            raise ModelRefused(error.message, reason=error.code) from error
        for problem in _problems(parse(path)[0].graph, found):
            raise ModelRefused(f"{found.name}: {problem}.")
        attempt(path)
        yield path, found


def _describe(file: Path, text: str, path: Path) -> None:
    """Write the graph of a file with a manifest that came beside it."""
    model, data = parse(file)
    check_graph(model, "The file")
    manifest = Manifest.from_json(text)
    stated = manifest.weights_sha256
    hashes = {hashlib.sha256(data).hexdigest(), graph_sha256(model)}
    if stated is not None and stated.lower() not in hashes:
        raise ModelRefused(
            f"The file's SHA-256 is {hashlib.sha256(data).hexdigest()}, the manifest states "
            f"weights_sha256 {stated[:64]}; send the file that belongs to it.",
            expected=stated[:64],
        )
    embed(model, manifest, path, read_finder(data, manifest.finder) if manifest.finder else None)


def _problems(graph: onnx.GraphProto, manifest: Manifest) -> Iterator[str]:
    """What of a graph's own declarations does not fit its manifest."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    for kind, values in (("input", inputs), ("output", graph.output)):
        if len(values) != 1:
            yield f"the graph has {len(values)} {kind}s, it must have one"
        elif values[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            yield f"its {kind} must be float32"
        else:
            yield from _misfits(kind, values[0], manifest)
    if manifest.organs and not any(ORGANS in node.output for node in graph.node):
        yield f"the manifest names organs, and the graph has no tensor {ORGANS!r}"


def _misfits(kind: str, value: onnx.ValueInfoProto, manifest: Manifest) -> Iterator[str]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        # The first run tells.
        return
    # 0 stands for an axis of any length.
    sizes = [axis.dim_value for axis in tensor.shape.dim]
    if len(sizes) != manifest.dims + 2:
        yield (
            f"its {kind} has {len(sizes)} axes, a {manifest.dims}D model has {manifest.dims + 2}: "
            f"batch, channel, {', '.join(_AXES[3 - manifest.dims :])}"
        )
        return
    wanted = 1 if kind == "input" else manifest.channels
    if sizes[1] not in (0, wanted):
        yield f"its {kind} has {sizes[1]} channels, the manifest promises {wanted}"
    # A 3D model gets one patch at a time, a 2D one several slices.
    if sizes[0] and (manifest.dims == 2 or sizes[0] != 1):
        yield f"its {kind} holds batches of {sizes[0]}; export it with a free batch axis"
    yield from _frozen(kind, sizes[2:], manifest)


def _frozen(kind: str, sizes: Sequence[int], manifest: Manifest) -> Iterator[str]:
    """A fixed side is one that every input has, and that the manifest therefore must say so."""
    rules = list(zip(_AXES, manifest.patch, manifest.divisor, strict=True))[3 - manifest.dims :]
    for size, (axis, patch, divisor) in zip(sizes, rules, strict=True):
        if size and not size == patch == divisor:
            yield (
                f"its {kind} is fixed at {size} along {axis}, the manifest allows {divisor} to "
                f"{patch}; set patch and divisor to {size} there, or export a free axis"
            )
