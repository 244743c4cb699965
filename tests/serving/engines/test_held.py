"""Models that come and go in memory."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imaging.errors import (
    Cancelled,
    CorruptModel,
    DeviceUnavailable,
    ModelError,
    ModelNotFound,
)
from models.onnxfile import embed
from models.store import Store, StoredModel
from serving.engines import Engine, Engines, footprint_mb, largest_file, onnx_runtime
from tests.models.foreign_graphs import conv, endless
from tests.models.manifests import manifest
from tests.serving.tiny_model import CENTRES, publish

LIVER = {"background": -100.0, "liver": 60.0}


def _loaded(engines: Engines) -> list[str]:
    return [entry["model"] for entry in engines.loaded()]


def _room_for(count: int, model: StoredModel) -> int:
    return int(count * footprint_mb(model.size)) + 1


class Gated(Engine):
    """An engine whose loading waits until the test lets it; counts the loadings."""

    waiting: dict[str, threading.Event]
    begun: list[str]

    def __init__(self, model: StoredModel, *settings: Any, **part: Any) -> None:
        self.begun.append(model.name)
        if model.name in self.waiting and not self.waiting[model.name].wait(20):
            raise AssertionError("nobody let it load")
        super().__init__(model, *settings, **part)


@pytest.fixture
def gated() -> type[Gated]:
    return type("Gated", (Gated,), {"waiting": {}, "begun": []})


def test_cuda_where_there_is_none_is_refused_and_auto_takes_the_cpu(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        onnx_runtime.ort, "get_available_providers", lambda: ["CPUExecutionProvider"]
    )
    model = store.resolve("starter")
    with pytest.raises(DeviceUnavailable, match="cpu or auto"):
        Engine(model, "cuda")
    assert Engine(model, "auto").device == "cpu"
    engines = Engines(store)
    assert engines.get(model, "auto") is engines.get(model, "cpu")


def test_a_cuda_provider_that_does_not_start_is_no_cuda(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        onnx_runtime.ort,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(onnx_runtime, "_try_cuda", lambda data, threads: None)
    assert Engine(store.resolve("starter"), "auto").device == "cpu"


def test_other_bytes_than_those_hashed_do_not_run(store: Store) -> None:
    model = store.resolve("starter")
    model.path.write_bytes(model.path.read_bytes() + b"\0")
    with pytest.raises(CorruptModel, match="changed"):
        Engine(model)


def test_a_moved_alias_costs_one_load_and_the_way_back_none(store: Store, tmp_path: Path) -> None:
    engines = Engines(store)
    first = engines.get(store.resolve("starter"), "cpu")
    assert engines.get(store.resolve("starter"), "cpu") is first
    publish(store, tmp_path, centres=LIVER)
    second = engines.get(store.resolve("starter"), "cpu")
    assert second is not first
    assert second.model.manifest.outputs == ("liver",)
    store.point("starter", "live", 1)
    assert engines.get(store.resolve("starter"), "cpu") is first
    assert _loaded(engines) == ["starter@2", "starter@1"]


def test_the_least_recently_used_goes_when_memory_is_short(store: Store, tmp_path: Path) -> None:
    publish(store, tmp_path, "third", centres=LIVER)
    models = [store.resolve(name) for name in ("starter", "flat", "third")]
    engines = Engines(store, memory_mb=_room_for(2, models[0]))
    for model in models[:2]:
        engines.get(model, "cpu")
    gone = weakref.ref(engines.get(models[1], "cpu"))
    engines.get(models[0], "cpu")
    engines.get(models[2], "cpu")
    assert _loaded(engines) == ["starter@1", "third@1"]
    gc.collect()
    assert gone() is None


def test_what_was_warmed_goes_last_and_not_for_idleness(store: Store, tmp_path: Path) -> None:
    publish(store, tmp_path, "third", centres=LIVER)
    room = _room_for(2, store.resolve("starter"))
    engines = Engines(store, memory_mb=room, idle_s=0.0)
    warmed = engines.warm("starter", "cpu")
    for name in ("flat", "third"):
        engines.get(store.resolve(name), "cpu")
    assert _loaded(engines) == ["starter@1", "third@1"]
    time.sleep(0.01)
    assert engines.tidy() == 1
    assert _loaded(engines) == ["starter@1"]
    assert engines.warm("starter", "cpu") is warmed
    publish(store, tmp_path, centres=LIVER)
    assert engines.warm("starter", "cpu") is not warmed
    time.sleep(0.01)
    assert engines.tidy() == 1
    assert _loaded(engines) == ["starter@2"]


def test_the_idle_are_unloaded_and_those_in_use_are_not(store: Store) -> None:
    engines = Engines(store, idle_s=600.0)
    idle = engines.get(store.resolve("flat"), "cpu")
    busy = engines.get(store.resolve("starter"), "cpu")
    assert engines.tidy() == 0
    for engine in (idle, busy):
        engine.used -= 601
    busy(np.zeros((1, 1, 4, 4, 4), np.float32))
    assert engines.tidy() == 1
    assert _loaded(engines) == ["starter@1"]
    # Whoever has it still runs it.
    assert idle(np.zeros((1, 1, 4, 4), np.float32)).shape == (1, len(CENTRES), 4, 4)


def test_a_model_over_the_ceiling_is_refused_and_drives_nobody_out(
    store: Store, tmp_path: Path
) -> None:
    engines = Engines(store, memory_mb=_room_for(1, store.resolve("starter")))
    engines.get(store.resolve("starter"), "cpu")
    big = endless(1)
    big.graph.doc_string = "." * 2**22
    embed(big, manifest(name="big"), tmp_path / "big.onnx")
    with pytest.raises(ModelError, match=r"big@1 takes about 2\d MB.*ISLET_MODEL_MEMORY_MB"):
        engines.get(store.publish(tmp_path / "big.onnx"), "cpu")
    assert _loaded(engines) == ["starter@1"]


@pytest.mark.parametrize("ceiling", [100, 4096])
def test_the_largest_file_is_the_one_that_just_fits(ceiling: int) -> None:
    size = largest_file(ceiling)
    assert footprint_mb(size) <= ceiling < footprint_mb(size + 2)
    assert largest_file(1) == 0


def test_loading_one_model_holds_up_nobody_who_wants_another(
    store: Store, gated: type[Gated]
) -> None:
    engines = Engines(store, kind=gated)
    flat = engines.get(store.resolve("flat"), "cpu")
    gated.waiting["starter"] = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        loading = [pool.submit(engines.get, store.resolve("starter"), "cpu") for _ in range(3)]
        while "starter" not in gated.begun:
            time.sleep(0.001)
        assert engines.get(store.resolve("flat"), "cpu") is flat
        assert not any(one.done() for one in loading)
        gated.waiting["starter"].set()
        assert len({id(one.result(20)) for one in loading}) == 1
    assert gated.begun == ["flat", "starter"]


def test_a_load_that_fails_is_tried_again_by_the_next(store: Store, gated: type[Gated]) -> None:
    engines = Engines(store, kind=gated)
    model = store.resolve("starter")
    data = model.path.read_bytes()
    model.path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CorruptModel):
            engines.get(model, "cpu")
    model.path.write_bytes(data)
    assert engines.get(model, "cpu") is engines.get(model, "cpu")
    assert gated.begun == ["starter"] * 3


def test_a_version_that_was_removed_runs_on_where_it_is_loaded(
    store: Store, tmp_path: Path
) -> None:
    engines = Engines(store)
    first = store.resolve("starter")
    held = engines.get(first, "cpu")
    publish(store, tmp_path, centres=LIVER)
    store.remove("starter", 1)
    assert held(np.zeros((1, 1, 4, 4, 4), np.float32)).shape[1] == len(CENTRES)
    with pytest.raises(ModelNotFound, match="starter@1 was removed"):
        Engine(first)


def test_a_model_that_fails_while_it_runs_is_named(store: Store, tmp_path: Path) -> None:
    embed(conv(given=["n", 1, 1, 1, 1]), manifest(name="frozen"), tmp_path / "frozen.onnx")
    store.publish(tmp_path / "frozen.onnx")
    engines = Engines(store)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"frozen@1 on cpu \(InvalidArgument\)"):
            engines.warm("frozen", "cpu")


@contextmanager
def _running(work: Any) -> Iterator[Any]:
    """The future of work that has begun and takes long."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        time.sleep(0.3)
        assert not future.done()
        yield future


@pytest.mark.parametrize("evicted", [False, True])
def test_a_running_inference_stops_within_a_second(
    store: Store, tmp_path: Path, evicted: bool
) -> None:
    # Bounded, so that a test that fails ends: it would take about a minute.
    embed(endless(5 * 10**7), manifest(name="long"), tmp_path / "long.onnx")
    engines = Engines(store, idle_s=-1.0 if evicted else 3600.0)
    long = engines.get(store.publish(tmp_path / "long.onnx"), "cpu")
    with _running(lambda: long(np.zeros((1, 1, 2, 2, 2), np.float32))) as future:
        assert engines.tidy() == int(evicted)
        begun = time.monotonic()
        engines.stop()
        with pytest.raises(Cancelled, match="inside the network"):
            future.result(10)
        assert time.monotonic() - begun < 1.0
    with _running(lambda: long(np.zeros((1, 1, 2, 2, 2), np.float32))) as future:
        long.stop()
        with pytest.raises(Cancelled):
            future.result(10)


def test_many_threads_over_little_memory_all_get_what_they_ask_for(
    store: Store, tmp_path: Path
) -> None:
    publish(store, tmp_path, "third", centres=LIVER)
    models = [store.resolve(name) for name in ("starter", "flat", "third")]
    engines = Engines(store, threads=1, memory_mb=_room_for(1, models[0]))

    def ask(turn: int) -> bool:
        model = models[turn % 3]
        engine = engines.get(model, "cpu")
        space = (4, 4, 4)[: model.manifest.dims]
        scores = engine(np.zeros((1, 1, *space), np.float32))
        engines.tidy()
        return scores.shape[1] == model.manifest.channels

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(120)))
    assert len(engines.loaded()) == 1
