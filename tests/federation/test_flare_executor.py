"""What leaves a site through the engine: bytes of ours, and no text of an error."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.fl_constant import ReservedKey, ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from federation.flare import executor
from federation.flare.executor import IsletExecutor
from federation.flare.home import Settings, write_settings
from federation.flare.package import APP, REPLY, REQUEST, write_package
from federation.site import Site
from tests.federation.sites import job

JOB = "job-1"


class Context:
    """The engine's context of a task at a site."""

    def __init__(self, kit: Path, wanted: str = ReturnCode.OK) -> None:
        self.kit, self.wanted, self.asked = kit, wanted, 0
        package = write_package(job(), kit / "run")
        self.workspace = SimpleNamespace(
            get_root_dir=lambda: str(kit),
            get_app_config_dir=lambda _: str(package / APP / "config"),
        )

    def get_workspace(self) -> Any:
        return self.workspace

    def get_job_id(self) -> str:
        return JOB

    def get_engine(self) -> Any:
        return self

    def send_aux_request(self, request: Shareable, **_: Any) -> dict[str, Shareable]:
        assert request.get_header(ReservedKey.TASK_ID) == "task-1"
        self.asked += 1
        return {"server": make_reply(self.wanted)}


def task(body: bytes = b"do") -> Shareable:
    made = Shareable()
    made[REQUEST] = body
    made.set_header(ReservedKey.TASK_ID, "task-1")
    return made


@pytest.fixture
def context(tmp_path: Path) -> Context:
    write_settings(tmp_path / "c1", Settings("c1", ("/patients/smith",)))
    return Context(tmp_path / "c1")


def run(context: Context, stop: Signal | None = None) -> Shareable:
    return IsletExecutor().execute("islet", task(), context, stop or Signal())  # type: ignore[arg-type]


def test_the_sites_reply_is_handed_back(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def handle(site: Site, request: bytes, stop: Any) -> bytes:
        seen.append((site.home.name, site.job_id, request))
        return b"done"

    monkeypatch.setattr(Site, "handle", handle)
    reply = run(context)
    assert reply[REPLY] == b"done"
    assert reply.get_return_code() == ReturnCode.OK
    assert seen == [("c1", JOB, b"do")]


def test_no_text_of_an_error_leaves_the_site(
    context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(*_: Any) -> bytes:
        raise RuntimeError("/patients/smith/ct.nii.gz is unreadable")

    monkeypatch.setattr(Site, "handle", handle)
    reply = run(context)
    assert REPLY not in reply
    assert reply.get_return_code() != ReturnCode.OK
    assert "smith" not in str(reply)
    assert "smith" in caplog.text


def test_an_unreadable_home_is_an_error_of_the_site(context: Context) -> None:
    (context.kit / "local" / "islet.json").write_text("{")
    reply = run(context)
    assert REPLY not in reply
    assert str(context.kit) not in str(reply)


@pytest.mark.parametrize(
    ("wanted", "stops"), [(ReturnCode.OK, False), (ReturnCode.TASK_UNKNOWN, True)]
)
def test_a_withdrawn_task_is_stopped(
    context: Context, monkeypatch: pytest.MonkeyPatch, wanted: str, stops: bool
) -> None:
    context.wanted = wanted
    now = [0.0]
    monkeypatch.setattr(executor, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(executor, "held", lambda *_: contextlib.nullcontext())
    found: list[bool] = []

    def handle(site: Site, request: bytes, stop: Any) -> bytes:
        for _ in range(100):
            now[0] += 1
            found.append(stop())
        return b""

    monkeypatch.setattr(Site, "handle", handle)
    run(context)
    assert found[-1] == stops
    assert not any(found[:10])
    # Four times a minute while it is wanted, never again once it is not.
    assert context.asked == (1 if stops else 6)


def test_the_engines_abort_stops_it(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Signal()
    found: list[bool] = []

    def handle(site: Site, request: bytes, asked: Any) -> bytes:
        found.append(asked())
        stop.trigger(True)
        found.append(asked())
        return b""

    monkeypatch.setattr(Site, "handle", handle)
    run(context, stop)
    assert found == [False, True]
