"""Connections that never say anything whole are closed; those that do are served."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from serving.guard.heads import Heads
from tests.serving.live import listening

WITHIN_S = 0.5
ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers after longer than a head may take."""
    await anyio.sleep(2 * WITHIN_S)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    class Quick(Heads):
        within_s = WITHIN_S

    with listening(slow, http=Quick) as url:
        yield int(url.rpartition(":")[2])


def closed_after(port: int, *pieces: bytes) -> float:
    """Seconds until the server lets go of a connection on which pieces come now and then."""
    with socket.create_connection(("127.0.0.1", port), 10) as to:
        began = time.monotonic()
        try:
            for piece in pieces:
                to.sendall(piece)
                time.sleep(WITHIN_S / 5)
            while to.recv(4096):
                pass
        except ConnectionError:
            pass
        return time.monotonic() - began


@pytest.mark.parametrize("pieces", [(), (ASK[:9],), (ASK[:-2], *[b"X-A: b\r\n"] * 8)])
def test_a_head_that_does_not_come_ends_the_connection(port: int, pieces: tuple[bytes]) -> None:
    assert WITHIN_S / 2 < closed_after(port, *pieces) < 6 * WITHIN_S


def test_whole_heads_are_answered_however_long_that_takes(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as to:
        for _ in range(2):
            to.sendall(ASK[:7])
            time.sleep(WITHIN_S / 5)
            to.sendall(ASK[7:])
            answer = HTTPResponse(to)
            answer.begin()
            assert (answer.status, answer.read()) == (200, b"ok")


def test_a_second_head_that_does_not_come_ends_it_too(port: int) -> None:
    # Behind an answered request the server's own patience of 5 s may come first.
    assert closed_after(port, ASK + ASK[:9]) < 9
