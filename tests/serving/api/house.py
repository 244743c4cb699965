"""The interface in process over real jobs, and a client of it."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from models.store import Store
from serving.api.desk import Desk
from serving.api.door import Door
from serving.guard.identity import LOCAL, SCOPE_KEY, Identity, Role
from serving.jobs.jobs import Jobs
from serving.metrics import Metrics
from serving.settings import Settings

LIMIT = 1_000_000

# Who a client says it is in the header ``As``; the guard is not part of these tests.
PEOPLE = {
    "local": LOCAL,
    "reader": Identity("reader", frozenset({Role.READ})),
    "ann": Identity("ann", frozenset({Role.SEGMENT})),
    "bob": Identity("bob", frozenset({Role.SEGMENT})),
    "boss": Identity("boss", frozenset({Role.ADMIN})),
}


class Client:
    """Sends requests straight into the application."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def get(self, url: str, **more: Any) -> httpx.Response:
        return self.ask("GET", url, **more)

    def post(self, url: str, **more: Any) -> httpx.Response:
        return self.ask("POST", url, **more)

    def delete(self, url: str, **more: Any) -> httpx.Response:
        return self.ask("DELETE", url, **more)

    def ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        return asyncio.run(self.request(method, url, **more))

    async def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://islet") as client:
            return await client.request(method, url, **more)


class Service:
    """The mounted interface with a client; fresh counters each time."""

    def __init__(self, settings: Settings, store: Store, jobs: Jobs) -> None:
        self.settings = settings
        self.jobs = jobs
        self.store = store
        self.registry = CollectorRegistry()
        self.door = Door()
        self.door.desk = Desk(settings, store, Metrics(self.registry), jobs)
        inner = Starlette(routes=[Mount("/v1", self.door)])

        async def known(scope: Scope, receive: Receive, send: Send) -> None:
            headers = dict(scope.get("headers", ()))
            scope[SCOPE_KEY] = PEOPLE[headers.get(b"as", b"local").decode()]
            await inner(scope, receive, send)

        self.app = known
        self.client = Client(known)


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any]


def events_of(text: str) -> list[Event]:
    """Server-sent events; comments are left out."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if lines:
            found.append(Event(lines["event"], json.loads(lines["data"])))
    return found


def unzip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def error_of(response: Any) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "details"}
    return body["error"]


async def until(condition: Callable[[], Any], seconds: float = 15) -> None:
    """Wait for something to come about.

    Raises:
        TimeoutError: it did not.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
