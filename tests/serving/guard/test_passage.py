"""A request's way through the guard: bodies that stall, and those that only seem to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imaging.errors import SlowBody
from serving.guard.middleware import Guard
from serving.settings import Bounds
from serving.statuses import status_of
from tests.serving.guard.apps import App, Guarded, lines, raw


async def _nothing() -> AsyncIterator[bytes]:
    yield b"x" * 100_000
    await asyncio.Event().wait()


async def _trickle() -> AsyncIterator[bytes]:
    for _ in range(100):
        yield b"x"
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("body", [_nothing, _trickle])
def test_a_body_that_stalls_or_trickles_is_given_up(tmp_path: Path, body: Any) -> None:
    guarded = Guarded(App(), bounds=Bounds(stall_s=1), audit=tmp_path / "audit.jsonl")
    began = asyncio.run(_timed(guarded.guard, body()))
    seconds, sent = began
    assert 0.9 < seconds < 3
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    headers = dict(sent[0]["headers"])
    assert (sent[0]["status"], headers[b"connection"]) == (status_of(SlowBody), b"close")
    assert json.loads(sent[1]["body"])["error"]["code"] == "slow_body"
    (line,) = lines(tmp_path / "audit.jsonl")
    assert (line["code"], line["status"]) == ("slow_body", status_of(SlowBody))


async def _timed(guard: Guard, body: AsyncIterator[bytes]) -> tuple[float, list[dict[str, Any]]]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    sent = await raw(guard, "/v1/x", {"host": "localhost"}, body)
    return loop.time() - began, sent


def test_a_slow_service_is_not_taken_for_a_slow_client(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        got, more = 0, True
        while more:
            message = await receive()
            got += len(message["body"])
            more = message["more_body"]
            await asyncio.sleep(0.35)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(got).encode()})

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x"

    guarded = Guarded(app, bounds=Bounds(stall_s=1))
    seconds, sent = asyncio.run(_timed(guarded.guard, body()))
    assert seconds > 1.2
    assert (sent[0]["status"], sent[1]["body"]) == (200, b"3")


def test_who_waits_for_an_answer_is_not_timed(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["more_body"] is False
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(1.2)
        waiting.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = asyncio.run(
        raw(Guarded(app, bounds=Bounds(stall_s=1)).guard, "/v1/x", {"host": "localhost"})
    )
    assert sent[0]["status"] == 200
