"""What a worker's memory is reported as, of a tiny model and a tiny CT."""

from __future__ import annotations

import mmap
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.memory import Visit, by_step, compared, measure, memory_mb
from imaging.limits import MIB
from imaging.writers.nifti import write_nifti
from models.store import Store
from serving.jobs.record import Job, State
from serving.settings import Settings
from tests.serving.tiny_model import boxes_ct, publish

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the marks are Linux's")


def took(peak: float, **steps: float) -> Visit:
    return Visit(idle=peak / 2, peak=peak, left=peak / 2, steps=steps)


def test_a_worker_does_a_job_and_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store", behind=())
    publish(store, tmp_path)
    monkeypatch.setenv("ISLET_STORE", str(store.root))
    monkeypatch.setattr(memory, "_SETTLED_S", 0.0)
    ct = tmp_path / "ct.nii.gz"
    made, _ = boxes_ct()
    write_nifti(made, ct)
    result = measure({20: ct}, Settings(spool=tmp_path / "spool", threads=1), repeats=1)
    (idle,), (peak,), (left,) = (
        result.sides[f"20 slices, {moment}"] for moment in ("idle", "peak", "left")
    )
    assert 20 < idle < peak
    assert 20 < left <= peak
    assert result.ratios["peak_to_volume_20"] == pytest.approx(peak / (made.array.nbytes / MIB))
    assert not result.bars
    steps = result.facts["steps_mb"][20]
    assert set(steps) <= {"load", "read", "preprocess", "network", "postprocess", "report", "write"}
    assert all(20 < mb <= peak for mb in steps.values())


def test_the_peak_is_a_mark_of_the_most() -> None:
    # Pages of its own: what is freed into a heap with room may stay there.
    held = mmap.mmap(-1, 64 * MIB)
    held.write(b"x" * len(held))
    high = memory_mb(os.getpid(), "VmHWM")
    before = memory_mb(os.getpid(), "VmRSS")
    held.close()
    assert memory_mb(os.getpid(), "VmRSS") < before - 48
    # The kernel counts in lots of pages.
    assert memory_mb(os.getpid(), "VmHWM") >= high - 2


def test_a_peak_over_its_bar_is_missed() -> None:
    visits = {
        119: [took(5000)],
        300: [took(900), took(1200), took(1010)],
        700: [took(1499)],
    }
    result = compared(visits, {119: 60.0, 300: 150.0, 700: 350.0}, "starter")
    assert result.missed() == ["peak_to_bar_300"]
    assert result.ratios["peak_to_bar_300"] == pytest.approx(1.01)
    assert result.ratios["peak_to_volume_119"] == pytest.approx(5000 / 60)
    assert result.to_json()["sides"]["700 slices, peak"]["median"] == 1499


def test_steps_are_medians_of_the_visits_that_saw_them() -> None:
    visits = {16: [took(9, read=1, network=5), took(9, read=3), took(9, read=8, network=7)]}
    assert compared(visits, {16: 1.0}, "starter").facts["steps_mb"] == {
        16: {"read": 3, "network": 6}
    }


def test_what_is_seen_belongs_to_the_step_that_then_ran() -> None:
    began = time.time()
    seconds = {"read": 1.0, "network": 2.0, "report": 0.001, "total": 3.001}
    job = Job("1", "segment", {}, "me", 10, State.DONE, began, started=began)
    job = Job(**(vars(job) | {"result": {"report": {"seconds": seconds}}}))
    at = ((-0.5, 99.0), (0.0, 10.0), (0.9, 12.0), (1.1, 30.0), (2.9, 20.0), (4.0, 99.0))
    seen = [(began + after, mb) for after, mb in at]
    assert by_step(job, seen) == {"read": 12.0, "network": 30.0}
