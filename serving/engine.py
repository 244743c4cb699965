"""A model in memory: an ONNX Runtime session on a CPU or a GPU."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from imaging.errors import BadParameter, CorruptModel, DeviceUnavailable
from imaging.threads import usable_cores
from models.store import Store, StoredModel

DEVICES = ("auto", "cpu", "cuda")

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_ERRORS_ONLY = 3
_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    RuntimeError,
)


class Engine:
    """A callable network for ``models.predict.predict``.

    Args:
        model: which version; the file is read once, checked against its hash and run from memory.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where this machine runs it, else the CPU.
        threads: of one inference; ``None`` takes ``imaging.threads.usable_cores``.

    Raises:
        BadParameter: no such device.
        DeviceUnavailable: ``cuda`` was asked for and there is none.
        CorruptModel: other bytes than the store hashed, or no graph that runs.
    """

    def __init__(
        self, model: StoredModel, device: str = "auto", threads: int | None = None
    ) -> None:
        check_device(device)
        data = model.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != model.sha256:
            raise CorruptModel(
                f"The file of {model.reference} changed after it was hashed; publish it again.",
                model=model.reference,
            )
        self._session = _open(data, model.reference, device, threads or usable_cores())
        self.device = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        self._input: str = self._session.get_inputs()[0].name

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """Scores of network inputs: (N, 1, Y, X) or (N, 1, Z, Y, X) to (N, C, ...), float32."""
        scores: NDArray[Any] = self._session.run(None, {self._input: patches})[0]
        return scores


class Engines:
    """Loaded engines by content and device, so that a moved alias costs one load.

    Args:
        store: where references are looked up, at every call: an alias that moves is followed.
        threads: of one inference.
        keep: engines held; the least recently used one goes.
        kind: of engine; one that measures, for instance.
    """

    def __init__(
        self,
        store: Store,
        threads: int | None = None,
        keep: int = 3,
        kind: type[Engine] = Engine,
    ) -> None:
        self.store = store
        self._kind = kind
        self._threads = threads
        self._keep = keep
        self._held: OrderedDict[tuple[str, str], Engine] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, model: StoredModel, device: str) -> Engine:
        """The engine of that model on that device.

        Raises:
            BadParameter, DeviceUnavailable, CorruptModel: see :class:`Engine`.
        """
        key = (model.sha256, device)
        with self._lock:
            engine = self._held.pop(key, None) or self._kind(model, device, self._threads)
            self._held[key] = engine
            while len(self._held) > self._keep:
                self._held.popitem(last=False)
        return engine


def check_device(device: str) -> None:
    """Raise ``BadParameter`` unless ``device`` is one of ``DEVICES``."""
    if device not in DEVICES:
        raise BadParameter(
            f"There is no device {device[:64]!r}; use one of {', '.join(DEVICES)}.",
            device=device[:64],
            known=list(DEVICES),
        )


def _open(data: bytes, reference: str, device: str, threads: int) -> ort.InferenceSession:
    if device != "cpu" and _CUDA in ort.get_available_providers():
        session = _try_cuda(data, threads)
        if session is not None:
            return session
    if device == "cuda":
        raise DeviceUnavailable(
            "This machine runs no CUDA session; ask for device cpu or auto, or install "
            "onnxruntime-gpu and its driver.",
            device=device,
            providers=ort.get_available_providers(),
        )
    try:
        return ort.InferenceSession(data, _options(threads), providers=[_CPU])
    except _LOAD_ERRORS as error:
        raise CorruptModel(
            f"ONNX Runtime cannot run {reference} ({type(error).__name__}); export it again.",
            model=reference,
        ) from error


def _try_cuda(data: bytes, threads: int) -> ort.InferenceSession | None:
    """A session whose first provider is CUDA, or ``None``: ONNX Runtime falls back silently."""
    cuda = (_CUDA, {"arena_extend_strategy": "kSameAsRequested"})
    try:
        session = ort.InferenceSession(data, _options(threads), providers=[cuda, _CPU])
    except _LOAD_ERRORS:
        return None
    return session if session.get_providers()[0] == _CUDA else None


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # The arena keeps its largest working set for ever. Five 3x3x3 convolutions on 64x128x128
    # patches: peak 619 MB and 634 MB held after it, against 364 and 104 without; an inference
    # takes a tenth longer. A service that stays small is worth that.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _ERRORS_ONLY
    return options
