"""Clients that wait and clients that go away: raw ASGI calls, so that nothing hides the order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from serving.jobs.record import Job, State
from tests.serving.api.conftest import staged
from tests.serving.api.house import Service, until


class Call:
    """One raw ASGI request to ``/segment`` whose client can go away."""

    def __init__(self, body: bytes, more: bool = False, query: bytes = b"") -> None:
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})
        self._query = query
        self.sent: list[dict[str, Any]] = []

    def hang_up(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def run(self, app: Any) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/segment",
            "raw_path": b"/v1/segment",
            "root_path": "",
            "query_string": self._query,
            "headers": [],
        }
        await app(scope, self._messages.get, self._send)

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]


def only_job(service: Service) -> Job:
    (job,) = service.jobs.list()
    return job


def test_a_client_that_goes_away_cancels_its_job(idle: Service, ct: Path) -> None:
    async def leave() -> Call:
        call = Call(ct.read_bytes())
        task = asyncio.create_task(call.run(idle.app))
        await until(lambda: idle.jobs.list())
        assert only_job(idle).state is State.QUEUED
        call.hang_up()
        await task
        return call

    assert asyncio.run(leave()).status == 410
    assert only_job(idle).state is State.CANCELLED


def test_a_request_that_is_broken_off_cancels_its_job(idle: Service, ct: Path) -> None:
    async def broken() -> None:
        task = asyncio.create_task(Call(ct.read_bytes()).run(idle.app))
        await until(lambda: idle.jobs.list())
        # Submitted, and waited for.
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(broken())
    assert only_job(idle).state is State.CANCELLED


def test_a_client_that_goes_away_while_sending_leaves_nothing(idle: Service) -> None:
    async def leave() -> Call:
        call = Call(b"\x1f\x8b" + b"\0" * 1000, more=True)
        task = asyncio.create_task(call.run(idle.app))
        await until(lambda: staged(idle.settings))
        call.hang_up()
        await task
        return call

    assert asyncio.run(leave()).status == 410
    assert idle.jobs.list() == []


def test_one_looker_wakes_all_who_wait(service: Service, ct: Path) -> None:
    looks = 0
    real = service.jobs.ended_since

    def counted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return real(*args)

    service.jobs.ended_since = counted  # type: ignore[method-assign]
    calls = [Call(ct.read_bytes(), query=b"outputs=report") for _ in range(6)]

    async def together() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(call.run(service.app) for call in calls))
        took = loop.time() - began
        # Nobody waits any more, so nobody looks any more.
        await asyncio.sleep(0.1)
        before = looks
        await asyncio.sleep(0.2)
        assert looks == before
        return took

    took = asyncio.run(together())
    service.jobs.ended_since = real  # type: ignore[method-assign]
    assert [call.status for call in calls] == [200] * 6
    # A look each 20 ms, and one for each who begins to wait.
    assert looks <= took / 0.02 + 2 * len(calls)


def test_a_job_that_is_deleted_wakes_who_waits(idle: Service, ct: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("serving.api.watch._ASK_S", 0.1)

    async def deleted() -> Call:
        call = Call(ct.read_bytes())
        task = asyncio.create_task(call.run(idle.app))
        await until(lambda: idle.jobs.list())
        idle.jobs.delete(only_job(idle).id)
        await asyncio.wait_for(task, 5)
        return call

    assert asyncio.run(deleted()).status == 404
