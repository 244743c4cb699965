"""Many clients, and clients that go away: raw ASGI calls, so that nothing hides the order."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from serving import api
from serving.api import Door
from tests.serving.test_api import Service, service  # noqa: F401 - a fixture


class Call:
    """One raw ASGI request to ``/segment`` whose client can go away."""

    def __init__(self, body: bytes, more: bool = False) -> None:
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})
        self.sent: list[dict[str, Any]] = []

    def hang_up(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def run(self, door: Door) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/segment",
            "raw_path": b"/segment",
            "root_path": "",
            "query_string": b"",
            "headers": [],
        }
        await door(scope, self._messages.get, self._send)

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


def test_a_flood_is_refused_with_a_time_to_come_back(
    service: Service,  # noqa: F811
    ct: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running, release = [], threading.Event()
    real = api.segment

    def slow(*args: Any) -> Any:
        running.append(len(running))
        release.wait(10)
        return real(*args)

    monkeypatch.setattr(api, "segment", slow)

    async def flood() -> list[Call]:
        calls = [Call(ct.read_bytes()) for _ in range(4)]
        first = [asyncio.create_task(call.run(service.door)) for call in calls[:2]]
        while not running:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(call.run(service.door) for call in calls[2:]))
        assert len(running) == 1
        release.set()
        await asyncio.gather(*first)
        return calls

    calls = asyncio.run(flood())
    assert [call.status for call in calls] == [200, 200, 429, 429]
    assert int(calls[2].headers[b"retry-after"]) >= 1
    assert service.client.post("/v1/segment", content=ct.read_bytes()).status_code == 200


def test_a_client_that_goes_away_stops_the_work(
    service: Service,  # noqa: F811
    ct: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []
    reached, gone = threading.Event(), threading.Event()
    real = api.segment

    def watched(*args: Any) -> Any:
        *rest, progress = args

        def told(step: str, part: float) -> None:
            steps.append(step)
            if step == "preprocess":
                reached.set()
                gone.wait(10)
            progress(step, part)

        return real(*rest, told)

    monkeypatch.setattr(api, "segment", watched)

    async def leave() -> Call:
        call = Call(ct.read_bytes())
        task = asyncio.create_task(call.run(service.door))
        while not reached.is_set():
            await asyncio.sleep(0.01)
        assert len(service.leftovers()) == 1
        call.hang_up()
        await asyncio.sleep(0.05)
        gone.set()
        await task
        return call

    assert asyncio.run(leave()).status == 499
    assert "network" not in steps


def test_a_client_that_goes_away_while_sending_leaves_nothing(
    service: Service,  # noqa: F811
) -> None:
    async def leave() -> Call:
        call = Call(b"\x1f\x8b" + b"\0" * 1000, more=True)
        call.hang_up()
        await call.run(service.door)
        return call

    assert asyncio.run(leave()).status == 499
