"""The roll of a running job: who is gone, who joins, who is started again, who is one too many."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import RunProcessKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import RunStatus
from nvflare.private.admin_defs import Message, MsgHeader, ReturnCode
from nvflare.private.defs import TrainingTopic

from federation.flare import muster
from federation.flare.muster import GONE, VISIT, Muster

JOB = "job-1"


class Engine:
    """The parts of FLARE's server that the muster uses, with sites that answer."""

    def __init__(self, folder: Path, max_sites: int = 3) -> None:
        self.folder = folder
        self.job = SimpleNamespace(
            job_id=JOB, meta={"max_sites": max_sites}, get_application=lambda *_: b"app"
        )
        self.registered: dict[str, Client] = {}
        self.runs: dict[str, bool | None] = {}
        self.takes: dict[str, bool] = {}
        self.started: list[str] = []
        self.resolved: set[str] = set()
        self.meta: dict[str, Any] = {}
        self.status: list[RunStatus] = []
        self.fallen: list[Any] = []
        self.run_processes: dict[str, dict[str, Any]] = {}
        self.client_manager = SimpleNamespace(get_clients=lambda: self.registered)
        self.server = SimpleNamespace(admin_server=SimpleNamespace(send_requests=self._send))
        self.job_runner = SimpleNamespace(
            running_jobs={JOB: self.job},
            resolve_client_outcome=lambda _, name: self.resolved.add(name),
            _make_deploy_message=lambda *_: Message(TrainingTopic.DEPLOY, b""),
        )

    def register(self, name: str, token: str = "", runs: bool | None = False) -> Client:
        client = Client(name, token or f"token-{name}")
        self.registered = {t: c for t, c in self.registered.items() if c.name != name} | {
            client.token: client
        }
        self.runs[name], self.takes[name] = runs, True
        return client

    def begin(self, *names: str) -> None:
        """A job that the engine itself started at these sites."""
        found = {t: c for t, c in self.registered.items() if c.name in names}
        self.run_processes[JOB] = {RunProcessKey.PARTICIPANTS: found}
        self.runs |= dict.fromkeys(names, True)

    @property
    def roll(self) -> dict[str, bool]:
        """Participants: whether each is there."""
        found = self.run_processes[JOB][RunProcessKey.PARTICIPANTS].values()
        return {c.name: not c.get_prop(GONE) for c in found}

    def visit(self, name: str) -> str:
        found = self.run_processes[JOB][RunProcessKey.PARTICIPANTS].values()
        return next(c.get_prop(VISIT, c.token) for c in found if c.name == name)

    def _send(self, requests: dict[str, Message], *_: Any, **__: Any) -> list[Any]:
        ((token, message),) = requests.items()
        name = self.registered[token].name
        reply = None
        if message.topic == TrainingTopic.CHECK_STATUS and self.runs[name] is not None:
            jobs = [{"job_id": JOB}] if self.runs[name] else []
            reply = Message("", json.dumps({"running_jobs": jobs}))
        elif message.topic == TrainingTopic.DEPLOY:
            reply = Message("", "")
            code = ReturnCode.OK if self.takes[name] else ReturnCode.ERROR
            reply.set_header(MsgHeader.RETURN_CODE, code)
        return [SimpleNamespace(reply=reply)]

    def check_client_resources(self, job: Any, needs: dict[str, Any], _: Any) -> Any:
        return dict.fromkeys(needs, (True, ""))

    def start_client_job(self, job: Any, sites: dict[str, Any], _: Any) -> None:
        self.started += sites
        self.runs |= dict.fromkeys(sites, True)

    @contextlib.contextmanager
    def new_context(self) -> Iterator[FLContext]:
        yield FLContext()

    def get_component(self, _: str) -> Any:
        return SimpleNamespace(
            get_jobs_by_status=lambda *_: self.fallen,
            update_meta=lambda _, meta, __: self.meta.update(meta),
            set_status=lambda _, status, __: self.status.append(status),
            job_uri=lambda _: str(self.folder),
        )


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test turns."""
    time = [1000.0]
    monkeypatch.setattr(muster, "time", SimpleNamespace(monotonic=lambda: time[0]))
    return time


@pytest.fixture
def roll(engine: Engine, now: list[float], monkeypatch: pytest.MonkeyPatch) -> Muster:
    """A muster that is called by hand."""
    return started(engine, monkeypatch)


def test_a_late_site_is_started_and_joins(engine: Engine, roll: Muster) -> None:
    engine.register("c1")
    engine.begin("c1")
    engine.register("c2")
    roll._call_roll(JOB)
    assert engine.started == ["c2"]
    assert engine.roll == {"c1": True, "c2": True}
    assert {c["name"] for c in engine.job.meta["job_clients"]} == {"c1", "c2"}


def test_a_site_that_comes_back_is_another_visit(engine: Engine, roll: Muster) -> None:
    engine.register("c1", "old")
    engine.begin("c1")
    before = engine.visit("c1")
    engine.register("c1", "new")
    roll._call_roll(JOB)
    assert engine.started == ["c1"]
    assert engine.roll == {"c1": True}
    assert engine.visit("c1") != before


def test_a_site_that_is_silent_is_gone_and_comes_back_as_it_was(
    engine: Engine, roll: Muster, now: list[float]
) -> None:
    client = engine.register("c1")
    engine.begin("c1")
    before = engine.visit("c1")
    engine.registered = {}
    roll._call_roll(JOB)
    assert engine.roll == {"c1": False}
    engine.registered = {client.token: client}
    now[0] += 60
    roll._call_roll(JOB)
    assert engine.roll == {"c1": True}
    assert (engine.visit("c1"), engine.started) == (before, [])


def test_a_process_that_died_alone_is_started_again_later_and_later(
    engine: Engine, roll: Muster, now: list[float]
) -> None:
    engine.register("c1")
    engine.begin("c1")
    visits = [engine.visit("c1")]
    waits = []
    for _ in range(4):
        engine.runs["c1"], begun = False, now[0]
        while len(engine.started) == len(visits) - 1:
            roll._call_roll(JOB)
            now[0] += 1
        waits.append(now[0] - begun)
        visits.append(engine.visit("c1"))
    assert len(set(visits)) == 5
    assert [2 * wait for wait in waits[1:-1]] == waits[2:]


def test_no_more_sites_than_the_job_allows(tmp_path: Path, now: list[float]) -> None:
    engine = Engine(tmp_path, max_sites=1)
    roll = Muster()
    roll._engine = engine
    engine.register("c1")
    engine.begin("c1")
    engine.register("c2")
    roll._call_roll(JOB)
    assert (engine.started, engine.roll) == ([], {"c1": True})


@pytest.mark.parametrize("runs", [None, False])
def test_a_site_that_cannot_be_started_does_not_join(
    engine: Engine, roll: Muster, runs: bool | None
) -> None:
    engine.register("c1")
    engine.begin("c1")
    engine.register("c2", runs=runs)
    engine.takes["c2"] = False
    roll._call_roll(JOB)
    assert (engine.started, engine.roll) == ([], {"c1": True})


def test_one_sites_failure_is_not_the_jobs(engine: Engine, roll: Muster) -> None:
    engine.register("c1")
    engine.begin("c1")
    engine.job_runner.running_jobs.clear()
    roll._call_roll(JOB)
    assert engine.resolved == {"c1"}


def test_a_job_that_is_over_starts_nobody(engine: Engine, roll: Muster) -> None:
    engine.register("c1")
    engine.begin("c1")
    engine.register("c2")
    engine.run_processes[JOB][RunProcessKey.PROCESS_FINISHED] = True
    roll._call_roll(JOB)
    assert engine.started == []


def test_the_engines_own_record_of_a_site_is_left_alone(engine: Engine, roll: Muster) -> None:
    engine.register("c1")
    engine.begin("c1")
    client = engine.register("c2")
    roll._call_roll(JOB)
    assert client.get_prop(VISIT) is None


def test_a_job_of_a_dead_server_waits_until_a_site_has_put_it_away(
    engine: Engine, now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scheduled").touch()
    engine.fallen = [engine.job]
    roll = started(engine, monkeypatch)
    roll._revive(JOB)
    engine.register("c1", runs=True)
    engine.register("c2", runs=None)
    roll._revive(JOB)
    assert (engine.status, roll._fallen) == ([], [JOB])
    engine.runs["c1"] = False
    roll._revive(JOB)
    assert (engine.status, roll._fallen) == ([RunStatus.SUBMITTED], [])
    # To the site that can start it alone; the engine fails a job that one site cannot start.
    assert engine.meta["deploy_map"] == {"app": ["server", "c1"]}
    assert engine.meta["schedule_count"] == 0
    assert not (tmp_path / "scheduled").exists()


def started(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Muster:
    monkeypatch.setattr(threading, "Thread", lambda **_: SimpleNamespace(start=lambda: None))
    made, context = Muster(), FLContext()
    context.get_engine = lambda: engine
    made.handle_event(EventType.SYSTEM_BOOTSTRAP, context)
    return made
