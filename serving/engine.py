"""Models in memory: ONNX Runtime sessions on a CPU or a GPU, loaded when asked for."""

from __future__ import annotations

import ctypes
import threading
import time
from collections import OrderedDict
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from imaging.errors import BadParameter, Cancelled, CorruptModel, DeviceUnavailable, ModelError
from imaging.limits import MIB
from imaging.threads import usable_cores
from models.store import Store, StoredModel
from models.trial import smallest_input

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
_RUN_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
# What a session adds to the process, in sizes of its file: the bytes, which ONNX Runtime's Python
# session keeps, and the weights in the order its kernels read. Measured 2.0 to 2.1 for files of
# 63 to 401 MB, 13 and 21 MB for files of 1.5 and 5.4 MB. While it loads it may be 4.3.
_SIZES, _BASE_MB = 2.2, 16.0

# SHA-256 of the file, and the device.
_Key = tuple[str, str]


class Engine:
    """A callable network for ``models.predict.predict``.

    Args:
        model: which version; the file is read once, checked against its hash and run from memory.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where this machine runs it, else the CPU.
        threads: of one inference; ``None`` takes ``imaging.threads.usable_cores``.

    Attributes:
        model: which version.
        device: ``cpu`` or ``cuda``.
        footprint_mb: what it takes of the memory, estimated from the size of its file.
        used: ``time.monotonic`` when it was loaded, or last asked for.

    Raises:
        BadParameter: no such device.
        DeviceUnavailable: ``cuda`` was asked for and there is none.
        ModelNotFound: the version was removed since the store named it.
        CorruptModel: other bytes than the store hashed, or no graph that runs.
    """

    def __init__(
        self, model: StoredModel, device: str = "auto", threads: int | None = None
    ) -> None:
        check_device(device)
        data = model.read()
        self.model = model
        self.footprint_mb = footprint_mb(len(data))
        self._session = _open(data, model.reference, device, threads or usable_cores())
        self.device = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        self._input: str = self._session.get_inputs()[0].name
        self._running: set[ort.RunOptions] = set()
        self.used = time.monotonic()

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """Scores of network inputs: (N, 1, Y, X) or (N, 1, Z, Y, X) to (N, C, ...), float32.

        Raises:
            Cancelled: :meth:`stop` was called meanwhile.
            ModelError: ONNX Runtime does not run the model on such an input, or has no memory.
        """
        self.used = time.monotonic()
        run = ort.RunOptions()
        self._running.add(run)
        try:
            scores: NDArray[Any] = self._session.run(None, {self._input: patches}, run)[0]
        except _RUN_ERRORS as error:
            if run.terminate:
                raise Cancelled("The work was stopped inside the network.") from error
            raise ModelError(
                f"ONNX Runtime failed over {self.model.reference} on {self.device} "
                f"({type(error).__name__}); check the file with `islet models check`, or ask for "
                "another device.",
                model=self.model.reference,
                device=self.device,
            ) from error
        finally:
            self._running.discard(run)
        return scores

    def stop(self) -> None:
        """Break off the inferences that run now, from any thread; later ones run."""
        for run in tuple(self._running):
            run.terminate = True

    def warm(self) -> None:
        """Run once, so that the first request need not wait for what a first run does.

        On a GPU that is the choice of algorithms for the patch's own shape. On a CPU the first
        run of a patch takes as long as any; a small input shows there that the graph runs.
        """
        manifest = self.model.manifest
        size = manifest.patch if self.device == "cuda" else smallest_input(manifest)
        self(np.zeros((1, 1, *size[3 - manifest.dims :]), np.float32))


class Engines:
    """Loaded engines by content and device, so that a moved alias costs one load.

    Threads share it: loading a model holds up those alone who ask for the same one. An engine
    that is unloaded while it runs ends its work first; whoever runs it holds it.

    Args:
        store: where references are looked up, at every call: an alias that moves is followed.
        threads: of one inference.
        memory_mb: of the loaded models together, by their footprints; the least recently used
            ones go.
        idle_s: an engine that nobody used for so long is unloaded by :meth:`tidy`.
        kind: of engine; one that measures, for instance.
    """

    def __init__(
        self,
        store: Store,
        threads: int | None = None,
        memory_mb: int = 4096,
        idle_s: float = 3600.0,
        kind: type[Engine] = Engine,
    ) -> None:
        self.store = store
        self._kind = kind
        self._threads = threads
        self._memory_mb = memory_mb
        self._idle_s = idle_s
        # In the order they were last asked for.
        self._held: OrderedDict[_Key, Engine] = OrderedDict()
        # What is loaded now, with its footprint.
        self._coming: dict[_Key, float] = {}
        # What was warmed, by the reference and device it was asked for with.
        self._warmed: dict[tuple[str, str], _Key] = {}
        # A lock a model, held by the thread that loads it, for as long as some thread wants it.
        self._gates: WeakValueDictionary[_Key, threading.Lock] = WeakValueDictionary()
        # Every engine that somebody still has, held here or not.
        self._alive: WeakSet[Engine] = WeakSet()
        self._lock = threading.Lock()

    def get(self, model: StoredModel, device: str) -> Engine:
        """The engine of that model on that device, loaded when it is not.

        Raises:
            ModelError: the model alone takes more than ``memory_mb``.
            BadParameter, DeviceUnavailable, ModelNotFound, CorruptModel: see :class:`Engine`.
        """
        key = _key(model, device)
        with self._lock:
            engine = self._find(key)
            gate = self._gates.setdefault(key, threading.Lock())
        if engine is not None:
            return engine
        with gate:
            with self._lock:
                # Who had the gate before has loaded it.
                engine = self._find(key)
            return engine or self._load(key, model, device)

    def warm(self, reference: str, device: str) -> Engine:
        """Load what a reference names and run it once, where that is not done yet.

        It is not unloaded when idle, and goes last when memory is short. Calling again is cheap,
        and follows the alias: what it named before is then like any other.

        Raises:
            ModelError, BadParameter, DeviceUnavailable: see :meth:`get`.
        """
        model = self.store.resolve(reference)
        engine = self.get(model, device)
        key = _key(model, device)
        if self._warmed.get((reference, device)) != key:
            engine.warm()
            with self._lock:
                self._warmed[reference, device] = key
        return engine

    def tidy(self) -> int:
        """Unload what was idle for too long; how many that were."""
        latest = time.monotonic() - self._idle_s
        with self._lock:
            kept = set(self._warmed.values())
            idle = [k for k, e in self._held.items() if e.used < latest and k not in kept]
            for key in idle:
                del self._held[key]
        if idle:
            _give_back()
        return len(idle)

    def stop(self) -> None:
        """Break off every inference that runs now; its caller gets ``Cancelled``."""
        with self._lock:
            alive = list(self._alive)
        for engine in alive:
            engine.stop()

    def loaded(self) -> list[dict[str, Any]]:
        """One entry an engine, the most recently used last; JSON-serialisable."""
        now = time.monotonic()
        with self._lock:
            held = list(self._held.values())
        return [
            {
                "model": engine.model.reference,
                "sha256": engine.model.sha256,
                "device": engine.device,
                "footprint_mb": round(engine.footprint_mb, 1),
                "idle_s": round(now - engine.used, 1),
            }
            for engine in held
        ]

    def _find(self, key: _Key) -> Engine | None:
        engine = self._held.get(key)
        if engine is not None:
            self._held.move_to_end(key)
            engine.used = time.monotonic()
        return engine

    def _load(self, key: _Key, model: StoredModel, device: str) -> Engine:
        wanted = footprint_mb(model.size)
        if wanted > self._memory_mb:
            raise ModelError(
                f"{model.reference} takes about {wanted:.0f} MB, loaded models together may take "
                f"{self._memory_mb} MB; raise ISLET_MODEL_MEMORY_MB.",
                model=model.reference,
                footprint_mb=round(wanted),
                limit_mb=self._memory_mb,
            )
        with self._lock:
            # Room is made before, so that the old and the new are not in memory together.
            self._coming[key] = wanted
            self._make_room()
        try:
            engine = self._kind(model, device, self._threads)
            with self._lock:
                self._held[key] = engine
                self._alive.add(engine)
        finally:
            with self._lock:
                del self._coming[key]
                # Again: what came at the same time had no room to make.
                self._make_room()
        _give_back()
        return engine

    def _make_room(self) -> None:
        """Drop engines until what is held and what is coming fit; what was warmed goes last."""
        warmed = set(self._warmed.values())
        leaving = sorted(self._held, key=warmed.__contains__)
        total = sum(e.footprint_mb for e in self._held.values()) + sum(self._coming.values())
        for key in leaving:
            if total <= self._memory_mb:
                return
            total -= self._held.pop(key).footprint_mb


def footprint_mb(size: int) -> float:
    """MB of memory that a loaded model takes, by the bytes of its file."""
    return _BASE_MB + _SIZES * size / MIB


def largest_file(memory_mb: int) -> int:
    """Bytes of the largest file whose footprint is no more than that."""
    return max(0, int((memory_mb - _BASE_MB) / _SIZES * MIB))


def _give_back() -> None:
    """Hand freed memory back to the system; glibc keeps it otherwise.

    Three models of 63 to 96 MB that came and went left 352 MB with the process without it, and
    none with it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _key(model: StoredModel, device: str) -> _Key:
    # Without CUDA in this build of ONNX Runtime, auto is the CPU, and one session serves both.
    if device == "auto" and _CUDA not in ort.get_available_providers():
        device = "cpu"
    return model.sha256, device


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
