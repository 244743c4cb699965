"""Real worker processes: work that hears nothing, that kills, parents that die."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from imaging.errors import Cancelled, TimedOut, WorkerLost
from models.store import Store
from serving.jobs.jobs import Jobs
from serving.jobs.ledger import LEASE_S
from serving.jobs.parts import Parts
from serving.jobs.record import ENDED, Job, State
from serving.settings import Settings
from serving.workers import crew as crew_module
from serving.workers.crew import Crew
from tests.serving.jobs.conftest import until
from tests.serving.tiny_model import publish

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
ODD = Path(__file__).parent / "odd"
_PARENT = """
import sys, time
from serving.settings import Settings
from serving.workers.crew import Crew
Crew(Settings.from_json(sys.stdin.read())).start()
time.sleep(60)
"""


class House:
    """A crew of two, and jobs of kinds that misbehave."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.jobs = Jobs(settings)
        self.crew = Crew(settings)

    def submit(self, kind: str, **request: object) -> Job:
        return self.jobs.submit(kind, request, "anna", None)

    def until(self, job: Job, *states: State, seconds: float = 30) -> Job:
        until(lambda: self.jobs.get(job.id).state in states, seconds)
        return self.jobs.get(job.id)

    def pids(self) -> set[int]:
        return {worker["pid"] for worker in self.jobs.workers()}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    store = Store(folder / "store", behind=())
    publish(store, folder)
    settings = Settings(spool=folder / "spool", workers=2, job_seconds=3)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ISLET_STORE", str(store.root))
        environment.setenv("PYTHONPATH", str(ODD))
        environment.setattr(crew_module, "_FIRST_PAUSE_S", 0.05)
        made = House(settings)
        made.crew.start()
        until(lambda: len(made.pids()) == 2, 60)
        yield made
        made.crew.stop()
        assert made.jobs.workers() == []
        made.jobs.close()


def test_a_running_job_stops_when_it_is_cancelled(house: House) -> None:
    pids = house.pids()
    job = house.submit("slow", seconds=30)
    house.until(job, State.RUNNING)
    began = time.monotonic()
    assert house.jobs.cancel(job.id).cancelling
    ended = house.until(job, *ENDED, seconds=5)
    assert ended.state is State.CANCELLED
    assert time.monotonic() - began < 2
    with pytest.raises(Cancelled):
        house.jobs.result(ended)
    assert house.pids() == pids, "its worker goes on"


def test_progress_is_seen_from_outside(house: House) -> None:
    job = house.submit("slow", seconds=2)
    seen = set()
    while (found := house.jobs.get(job.id)).state not in ENDED:
        seen.add((found.step, found.part))
        time.sleep(0.05)
    assert found.state is State.DONE
    parts = sorted(part for step, part in seen if step == "sleep")
    assert 2 <= len(parts) <= 12, "it is written down, and not too often"


def test_work_that_hears_nothing_ends_with_its_process(house: House) -> None:
    job = house.submit("stuck")
    house.until(job, State.RUNNING)
    began = time.monotonic()
    house.jobs.cancel(job.id)
    assert house.until(job, *ENDED).state is State.CANCELLED
    assert time.monotonic() - began < 5
    until(lambda: len(house.pids()) == 2, 30)


def test_a_job_may_take_only_so_long(house: House) -> None:
    jobs = [house.submit("slow", seconds=30), house.submit("stuck")]
    for job in jobs:
        ended = house.until(job, *ENDED)
        with pytest.raises(TimedOut, match="3 s"):
            house.jobs.result(ended)
        assert ended.ended is not None
        assert ended.started is not None
        assert 3 <= ended.ended - ended.started < 8


def test_a_job_that_kills_workers_is_given_up_and_others_are_done(house: House) -> None:
    poison = house.submit("poison")
    others = [house.submit("slow", seconds=0.1) for _ in range(3)]
    for job in others:
        assert house.until(job, *ENDED).state is State.DONE
    ended = house.until(poison, *ENDED, seconds=60)
    assert ended.attempts == 3
    with pytest.raises(WorkerLost):
        house.jobs.result(ended)
    until(lambda: len(house.pids()) == 2, 30)


def test_a_worker_that_falls_silent_is_ended(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process lives, but nothing more is heard of it."""
    monkeypatch.setattr(crew_module, "_LISTEN_S", 0.1)
    parts = Parts.open(replace(house.settings, spool=tmp_path / "spool"))
    calls = iter([[{"id": "w"}], [{"id": "w"}], [], [{"id": "w"}], [], []])
    monkeypatch.setattr(parts.roll, "live", lambda: next(calls))
    keeper = crew_module._Keeper(house.settings, parts, threading.Event())
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE) as process:
        keeper._watch(process, "w")
    assert process.returncode == -signal.SIGKILL
    assert list(calls) == [], "one silence alone is no reason"
    parts.close()


def test_workers_die_with_a_parent_that_is_killed(house: House, tmp_path: Path) -> None:
    settings = replace(house.settings, spool=tmp_path / "spool", workers=1)
    jobs = Jobs(settings)
    path = os.pathsep.join((str(ROOT), str(ODD)))
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        stdin=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    with parent:
        assert parent.stdin is not None
        parent.stdin.write(settings.to_json().encode())
        parent.stdin.close()
        job = jobs.submit("slow", {"seconds": 3}, "anna", None)
        until(lambda: jobs.get(job.id).state is State.RUNNING, 30)
        (row,) = jobs.workers()
        parent.send_signal(signal.SIGKILL)
    until(lambda: not _lives(row["pid"]), 5)
    # The worker gave the job back before it went.
    assert (jobs.get(job.id).state, jobs.get(job.id).attempts) == (State.QUEUED, 1)
    jobs.tidy()
    jobs.tidy()
    jobs.close()
    parts = Parts.open(settings)
    assert parts.queue.take(0.0) == job.id
    assert parts.queue.take(0.0) is None
    parts.close()


def test_killed_workers_give_their_jobs_back_at_once(house: House) -> None:
    job = house.submit("slow", seconds=1)
    house.until(job, State.RUNNING)
    began = time.monotonic()
    for pid in house.pids():
        os.kill(pid, signal.SIGKILL)
    # Nobody tidies here: the crew sees them die.
    until(lambda: house.jobs.get(job.id).state is State.QUEUED, 5)
    assert time.monotonic() - began < LEASE_S / 4
    ended = house.until(job, *ENDED)
    assert (ended.state, ended.attempts) == (State.DONE, 2)


def test_a_worker_that_cannot_start_is_tried_again_later_and_later(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def start(worker: str, settings: Settings) -> subprocess.Popen[bytes]:
        starts.append(time.monotonic())
        return subprocess.Popen(["false"], stdin=subprocess.PIPE)

    monkeypatch.setattr(crew_module, "_start", start)
    crew = Crew(replace(house.settings, spool=tmp_path / "spool", workers=1))
    crew.start()
    until(lambda: len(starts) >= 4)
    crew.stop()
    gaps = [b - a for a, b in pairwise(starts)]
    # The fixture made the first pause 0.05 s.
    assert all(gap >= pause for gap, pause in zip(gaps, (0.1, 0.2, 0.4), strict=False))


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_a_crew_that_cannot_start_a_worker_tries_again(
    tmp_path: Path, published: Store, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(spool=tmp_path / "spool")
    jobs, crew = Jobs(settings), Crew(settings)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    crew.start()
    try:
        until(jobs.ready, 120)
        (first,) = jobs.workers()
        # No further file: no pipe to a further process.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, files[1]))
        os.kill(first["pid"], signal.SIGKILL)
        until(lambda: "cannot be started" in caplog.text, 120)
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        until(lambda: any(w["pid"] != first["pid"] and w["ready"] for w in jobs.workers()), 120)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        crew.stop()
        jobs.close()
