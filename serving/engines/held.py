"""Models in memory, loaded when asked for."""

from __future__ import annotations

import ctypes
import threading
import time
from collections import OrderedDict
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from imaging.errors import ModelError
from models.store import Store, StoredModel
from serving.engines.engine import Engine, footprint_mb
from serving.engines.onnx_runtime import has_cuda

# SHA-256 of the file, the device, and whether organs alone are asked for.
_Key = tuple[str, str, bool]


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
        runtime: of :data:`serving.engines.engine.RUNTIMES`.
    """

    def __init__(
        self,
        store: Store,
        threads: int | None = None,
        memory_mb: int = 4096,
        idle_s: float = 3600.0,
        kind: type[Engine] = Engine,
        runtime: str = "auto",
    ) -> None:
        self.store = store
        self._kind = kind
        self._threads, self._runtime = threads, runtime
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

    def get(self, model: StoredModel, device: str, organs: bool = False) -> Engine:
        """The engine of that model on that device, loaded when it is not.

        Args:
            model: which version.
            device: of :data:`serving.engines.engine.DEVICES`.
            organs: the part of it that finds organs; an engine of its own.

        Raises:
            ModelError: the model alone takes more than ``memory_mb``.
            BadParameter, DeviceUnavailable, ModelNotFound, CorruptModel: see :class:`Engine`.
        """
        key = _key(model, device, organs)
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
                "organs": engine.organs,
                "device": engine.device,
                "runtime": engine.runtime,
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
            *_, organs = key
            engine = self._kind(model, device, self._threads, self._runtime, organs=organs)
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


def _give_back() -> None:
    """Hand freed memory back to the system; glibc keeps it otherwise.

    Three models of 63 to 96 MB that came and went left 352 MB with the process without it, and
    none with it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _key(model: StoredModel, device: str, organs: bool = False) -> _Key:
    # Without CUDA in this build of ONNX Runtime, auto is the CPU, and one session serves both.
    if device == "auto" and not has_cuda():
        device = "cpu"
    return model.sha256, device, organs
