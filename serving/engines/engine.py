"""A model in memory, run by the fastest runtime whose masks are the same."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter
from imaging.limits import MIB
from imaging.threads import usable_cores
from models.onnxfile import of_organs
from models.store import StoredModel
from models.trial import smallest_input
from serving.engines import openvino
from serving.engines.choice import choose
from serving.engines.onnx_runtime import OnnxRuntime, has_cuda, open_finder
from serving.engines.runtime import Runtime

DEVICES = ("auto", "cpu", "cuda")
RUNTIMES = ("auto", OnnxRuntime.name, *openvino.PRECISIONS)

# What a session adds to the process, in sizes of its file: the bytes, which ONNX Runtime's Python
# session keeps, and the weights in the order its kernels read. Measured 2.0 to 2.1 for files of
# 63 to 401 MB, 13 and 21 MB for files of 1.5 and 5.4 MB. While it loads it may be 4.3.
_SIZES, _BASE_MB = 2.2, 16.0


class Engine:
    """A callable network for ``models.predict.predict``.

    Args:
        model: which version; the file is read once, checked against its hash and run from memory.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where this machine runs it, else the CPU.
        threads: of one inference; ``None`` takes ``imaging.threads.usable_cores``.
        runtime: of :data:`RUNTIMES`, on a CPU: ``auto`` takes the fastest here among those whose
            masks the model's manifest says to be the same.
        organs: run only the part of the graph that finds organs, of a model whose manifest names
            some.

    Attributes:
        model: which version, with the manifest of the part that is run.
        device: ``cpu`` or ``cuda``.
        runtime: what runs it.
        organs: whether it is the part that finds organs.
        footprint_mb: what it takes of the memory, estimated from the size of its file.
        used: ``time.monotonic`` when it was loaded, or last asked for.
        finder: the network of the manifest's finder, where it has one.

    Raises:
        BadParameter: no such device or runtime, or one whose masks are not known to be the same.
        DeviceUnavailable: ``cuda`` was asked for and there is none.
        ModelNotFound: the version was removed since the store named it.
        CorruptModel: other bytes than the store hashed, or no graph that runs.
    """

    def __init__(
        self,
        model: StoredModel,
        device: str = "auto",
        threads: int | None = None,
        runtime: str = "auto",
        organs: bool = False,
    ) -> None:
        check_device(device)
        check_runtime(runtime)
        data = model.read()
        self.organs, whole = organs, data
        if organs:
            data = of_organs(whole, model.reference)
            model = dataclasses.replace(model, manifest=model.manifest.of_organs())
        self.model = model
        self.footprint_mb = footprint_mb(len(data))
        threads = threads or usable_cores()
        self._runtime = self._open(data, device, threads, runtime)
        self.device, self.runtime = self._runtime.device, self._runtime.name
        self.finder = open_finder(model.manifest, whole, model.reference, threads)
        self.used = time.monotonic()

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """Scores of network inputs: (N, 1, Y, X) or (N, 1, Z, Y, X) to (N, C, ...), float32.

        Raises:
            Cancelled: :meth:`stop` was called meanwhile.
            ModelError: the model does not run on such an input, or there is no memory.
        """
        self.used = time.monotonic()
        return self._runtime(patches)

    def stop(self) -> None:
        """Break off the inferences that run now, from any thread; later ones run."""
        self._runtime.stop()
        if self.finder is not None:
            self.finder.stop()

    def warm(self) -> None:
        """Run once, so that the first request need not wait for what a first run does.

        On a GPU that is the choice of algorithms for the patch's own shape. On a CPU the first
        run of a patch takes as long as any; a small input shows there that the graph runs.
        """
        manifest = self.model.manifest
        size = manifest.patch if self.device == "cuda" else smallest_input(manifest)
        self(np.zeros((1, 1, *size[3 - manifest.dims :]), np.float32))

    def _open(self, data: bytes, device: str, threads: int, runtime: str) -> Runtime:
        if device == "cuda" or (device == "auto" and has_cuda()):
            found = OnnxRuntime(data, self.model.reference, device, threads)
            if found.device == "cuda":
                return found
        return choose(self.model, data, threads, runtime)


def footprint_mb(size: int) -> float:
    """MB of memory that a loaded model takes, by the bytes of its file."""
    return _BASE_MB + _SIZES * size / MIB


def largest_file(memory_mb: int) -> int:
    """Bytes of the largest file whose footprint is no more than that."""
    return max(0, int((memory_mb - _BASE_MB) / _SIZES * MIB))


def check_device(device: str) -> None:
    """Raise ``BadParameter`` unless ``device`` is one of ``DEVICES``."""
    _check("device", device, DEVICES)


def check_runtime(runtime: str) -> None:
    """Raise ``BadParameter`` unless ``runtime`` is one of ``RUNTIMES``."""
    _check("runtime", runtime, RUNTIMES)


def _check(kind: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise BadParameter(
            f"There is no {kind} {given[:64]!r}; use one of {', '.join(known)}.",
            **{kind: given[:64]},
            known=list(known),
        )
