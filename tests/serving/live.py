"""The interfaces over HTTP on a loopback port, over real jobs and one worker process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from models.store import Store
from serving.api.desk import Desk
from serving.api.door import Door
from serving.guard.identity import LOCAL, SCOPE_KEY, Identity, Role
from serving.jobs.jobs import Jobs
from serving.metrics import Metrics
from serving.monailabel import Label
from serving.process import free_port
from serving.settings import Settings
from serving.workers.crew import Crew
from tests.serving.tiny_model import publish

# Whom a token names; the guard itself has its own tests.
TOKENS = {
    "ann": Identity("ann", frozenset({Role.SEGMENT})),
    "bob": Identity("bob", frozenset({Role.SEGMENT})),
}


@dataclass(frozen=True)
class Live:
    """A service that answers.

    Attributes:
        url: of it.
        jobs: behind it.
        settings: its own.
    """

    url: str
    jobs: Jobs
    settings: Settings


@contextmanager
def live_service(folder: Path) -> Iterator[Live]:
    """A service with ``starter`` (3D) and ``flat`` (2D)."""
    store = Store(folder / "store", behind=())
    publish(store, folder)
    publish(store, folder, "flat", dims=2)
    settings = Settings(spool=folder / "spool", threads=1)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ISLET_STORE", str(store.root))
        jobs, crew = Jobs(settings), Crew(settings)
        crew.start()
        try:
            desk = Desk(settings, store, Metrics(CollectorRegistry()), jobs)
            door = Door()
            door.desk = desk
            mounts = [Mount("/v1", door), Mount("/monailabel", Label(desk))]
            with listening(known(Starlette(routes=mounts))) as url:
                yield Live(url, jobs, settings)
        finally:
            crew.stop()
            jobs.close()


def known(app: ASGIApp) -> ASGIApp:
    """The application for who holds a token of ``TOKENS``, and for this machine's own."""

    async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            said = dict(scope["headers"]).get(b"authorization", b"").decode()
            scope[SCOPE_KEY] = TOKENS.get(said.removeprefix("Bearer "), LOCAL)
        await app(scope, receive, send)

    return admitted


@contextmanager
def listening(app: ASGIApp, **more: object) -> Iterator[str]:
    """The URL of an application that is served from a thread."""
    port = free_port()
    config = uvicorn.Config(app, port=port, log_level="error", lifespan="off", **more)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        yield f"{'https' if more else 'http'}://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
