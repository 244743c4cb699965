"""The BentoML service: one process that answers, and the workers that segment beside it.

``bentoml serve serving.service:Islet``; settings are in ``serving.settings``.
"""

from __future__ import annotations

import asyncio
import logging

import bentoml
import uvicorn.config
from bentoml._internal.server.http import traffic
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from imaging.errors import IsletError
from models.store import default_store
from serving.api.desk import Desk
from serving.api.door import Door
from serving.guard.heads import Heads
from serving.guard.middleware import Guard
from serving.guard.rules import asked_host, check_exposure
from serving.jobs.jobs import Jobs
from serving.metrics import Metrics, exposition
from serving.monailabel import Label
from serving.pacs.config import load
from serving.pacs.rules import load_rules
from serving.process import end_with_parent
from serving.settings import Settings
from serving.threads import in_thread
from serving.ui.page import page
from serving.workers.crew import Crew

logger = logging.getLogger("islet.serving")

# BentoML would cut a request off after a minute; one that waits for its job may take longer.
_TIMEOUT_S = 3600
_TIDY_S = 5.0

settings = Settings.from_environment()

# BentoML hands no protocol through; this is the one that its server takes by default.
Heads.within_s = settings.bounds.stall_s
uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{Heads.__module__}:{Heads.__name__}"


class Unclocked:
    """In place of BentoML's clock, which keeps what a request held until it strikes (1.4.39).

    That is eight kilobytes for each request of the last hour. What may take how long is bounded by
    the guard and the queue.
    """

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        del timeout
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


# It has no switch: its settings take no "never".
traffic.TimeoutMiddleware = Unclocked


class Later:
    """An application that is there once the process has made it."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


door = Door()
label = Later()
front = Later()


# Several processes would answer from the same records; one is enough, since none of the work is
# done in it. BentoML's access log and its numbers would quote paths, which may name a study; the
# guard's audit log names routes, and the numbers are our own.
@bentoml.service(
    name="islet",
    workers=1,
    traffic={"timeout": _TIMEOUT_S},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
# Read from below: what is asked first comes last.
@bentoml.asgi_app(front, path="/")
@bentoml.asgi_app(door, path="/v1")
@bentoml.asgi_app(label, path="/monailabel")
class Islet:
    """The process that answers."""

    def __init__(self) -> None:
        self._jobs = Jobs(settings)
        self._crew = Crew(settings)
        metrics = Metrics()
        front.app = Starlette(routes=[exposition(metrics, self._jobs), Mount("/", page)])
        door.desk = Desk(settings, default_store(), metrics, self._jobs)
        label.app = Label(door.desk)
        self._tidying: asyncio.Task[None] | None = None

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def check() -> None:
        """Stop with a sentence, in the first process and before it listens, where it may not
        listen, a file of the settings is wrong or the jobs' records cannot be opened."""
        try:
            check_exposure(asked_host(), settings)
            load(settings.pacs)
            load_rules(settings.rules)
            Jobs(settings).close()
        except IsletError as error:
            raise SystemExit(f"islet: {error.code}: {error.message}") from None

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Start the workers, and the task that tidies."""
        end_with_parent()
        await in_thread(self._crew.start)
        self._tidying = asyncio.create_task(self._tidy())

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Stop the workers; what they had in hand goes on when the service is back."""
        if self._tidying is not None:
            self._tidying.cancel()
        await in_thread(self._crew.stop)
        await in_thread(self._jobs.close)

    def __is_ready__(self) -> bool:
        """Whether a worker has loaded the default model."""
        return self._jobs.ready()

    async def _tidy(self) -> None:
        while True:
            try:
                await in_thread(self._jobs.tidy)
                await door.desk.watch.look()
            except Exception as error:  # noqa: BLE001 - an edge: the next turn may do better
                logger.error("tidying failed: %s", type(error).__name__)
            await asyncio.sleep(_TIDY_S)


Islet.add_asgi_middleware(Guard, settings=settings)  # type: ignore[attr-defined]
