"""ONNX Runtime: runs every model, on a CPU or on CUDA; what others are measured against."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from imaging.errors import Cancelled, CorruptModel, DeviceUnavailable
from models.manifest import Manifest
from models.onnxfile import read_finder
from serving.engines.runtime import STOPPED, failure

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
_RUN_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxRuntime:
    """A session.

    Args:
        data: the model's file.
        reference: of the model, for errors.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where this machine runs it, else the CPU.
        threads: of one inference.

    Attributes:
        device: ``cpu`` or ``cuda``.

    Raises:
        DeviceUnavailable: ``cuda`` was asked for and there is none.
        CorruptModel: no graph that runs.
    """

    name = "onnxruntime"

    def __init__(self, data: bytes, reference: str, device: str, threads: int) -> None:
        self._reference = reference
        self._session = _open(data, reference, device, threads)
        self.device = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        self._input: str = self._session.get_inputs()[0].name
        self._running: set[ort.RunOptions] = set()

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        run = ort.RunOptions()
        self._running.add(run)
        try:
            scores: NDArray[Any] = self._session.run(None, {self._input: patches}, run)[0]
        except _RUN_ERRORS as error:
            if run.terminate:
                raise Cancelled(STOPPED) from error
            raise failure("ONNX Runtime", self._reference, self.device, error) from error
        finally:
            self._running.discard(run)
        return scores

    def stop(self) -> None:
        for run in tuple(self._running):
            run.terminate = True


def open_finder(
    manifest: Manifest, data: bytes, reference: str, threads: int
) -> OnnxRuntime | None:
    """The finder in a model's file, on the CPU: it takes some hundredths of what the model takes.

    Raises:
        CorruptModel: other bytes than the manifest's hash, or no graph that runs.
    """
    if manifest.finder is None:
        return None
    return OnnxRuntime(read_finder(data, manifest.finder), reference, "cpu", threads)


def has_cuda() -> bool:
    """Whether this build of ONNX Runtime knows CUDA."""
    return _CUDA in ort.get_available_providers()


def _open(data: bytes, reference: str, device: str, threads: int) -> ort.InferenceSession:
    if device != "cpu" and has_cuda():
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
