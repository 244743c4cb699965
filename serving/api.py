"""The HTTP interface under ``/v1``: segment, models, openapi.json; one error shape."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import tempfile
import threading
import traceback
import uuid
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from imaging.errors import Cancelled, IsletError, ModelError, ServiceBusy
from models.labels import MASKS
from models.store import Store
from serving.engine import Engines
from serving.metrics import Metrics
from serving.openapi import document
from serving.options import Options, available, from_parameters
from serving.segment import Segmentation, encode_report, files, segment
from serving.settings import Settings
from serving.statuses import INTERNAL, ROUTER_CODES, status_of
from serving.uploads import Upload, check_length, receive

logger = logging.getLogger("islet.serving")

# Zip members have no time of their own: equal results give equal archives.
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Desk:
    """What the endpoints share in one worker.

    Args:
        settings: limits and defaults.
        store: of the models.
        metrics: counters; one set a process.
    """

    def __init__(self, settings: Settings, store: Store, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.engines = Engines(store, settings.threads, settings.keep_models)
        self._turns = asyncio.Semaphore(settings.concurrency)
        self._inside = 0
        self._last_seconds = 1.0

    def load_default(self) -> None:
        """Load the default model, so that the first request need not.

        Raises:
            ModelError, DeviceUnavailable: it cannot be.
        """
        model = self.engines.store.resolve(self.settings.model)
        self.engines.get(model, self.settings.device)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Count a request in, from before its body is read until it is answered.

        Raises:
            ServiceBusy: as many as may run and wait are inside.
        """
        most = self.settings.concurrency + self.settings.waiting
        if self._inside >= most:
            wait = max(1, round(self._last_seconds * self._inside / self.settings.concurrency))
            raise ServiceBusy(
                f"{self._inside} requests run or wait, as many as this worker takes; try again in "
                f"{wait} s.",
                retry_after_s=wait,
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def run(self, work: Callable[[], Segmented]) -> Segmented:
        """Run blocking work in a thread when it is its turn."""
        async with self._turns:
            done = await anyio.to_thread.run_sync(work)
        self._last_seconds = sum(done[1].watch.seconds.values())
        self.metrics.steps(done[1].watch.seconds)
        return done


Segmented = tuple[Response, Segmentation]


class Door:
    """The ASGI application; ``desk`` must be set before the first request.

    No Starlette itself, so that BentoML hands over everything under its path, unknown paths
    included, and answers there have this shape too.
    """

    def __init__(self) -> None:
        self.app = Starlette(
            routes=ROUTES,
            exception_handlers={
                IsletError: _refuse,
                HTTPException: _refuse_route,
                ClientDisconnect: _gone,
                Exception: _fail,
            },
        )

    @property
    def desk(self) -> Desk:
        desk: Desk = self.app.state.desk
        return desk

    @desk.setter
    def desk(self, desk: Desk) -> None:
        self.app.state.desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception:  # noqa: BLE001 - the edge of the process
            # Starlette raises again what ``_fail`` has logged and answered.
            return


async def post_segment(request: Request) -> Response:
    """``POST /segment``: a CT in, masks and report (a zip) or the report alone (JSON) out."""
    desk: Desk = request.app.state.desk
    check_length(request, desk.settings.limits)
    from_parameters(_query(request), desk.settings)
    async with desk.admitted():
        with tempfile.TemporaryDirectory(prefix="islet-", ignore_cleanup_errors=True) as folder:
            upload = await receive(request, Path(folder), desk.settings.limits)
            options, output = from_parameters(_merged(request, upload), desk.settings)
            response, _ = await _until_gone(request, desk, upload, options, output)
    desk.metrics.outcome("segment", "ok")
    return response


async def get_models(request: Request) -> Response:
    """``GET /models``: every model, its versions, aliases and manifests."""
    desk: Desk = request.app.state.desk
    store = desk.engines.store
    listed = await anyio.to_thread.run_sync(partial(_list_models, store))
    desk.metrics.outcome("models", "ok")
    return JSONResponse({"default": desk.settings.model, "models": listed})


async def get_openapi(_: Request) -> Response:
    """``GET /openapi.json``: this interface, described."""
    return JSONResponse(document())


ROUTES = [
    Route("/segment", post_segment, methods=["POST"]),
    Route("/models", get_models, methods=["GET"]),
    Route("/openapi.json", get_openapi, methods=["GET"]),
]


async def _until_gone(
    request: Request, desk: Desk, upload: Upload, options: Options, output: str
) -> Segmented:
    """Segment, and stop at the next step of the work when the client goes away."""
    gone = threading.Event()

    def progress(step: str, _part: float) -> None:
        if gone.is_set():
            raise Cancelled(f"The client went away during {step}.", step=step)

    def work() -> Segmented:
        result = segment(upload.source, options, desk.engines, desk.settings.limits, progress)
        return _answer(result, output), result

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watcher = asyncio.create_task(watch())
    try:
        return await desk.run(work)
    finally:
        gone.set()
        watcher.cancel()


def _answer(result: Segmentation, output: str) -> Response:
    if output == "json":
        return Response(encode_report(result), media_type="application/json")
    packed = io.BytesIO()
    # Members are compressed already.
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files(result):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return Response(packed.getvalue(), media_type="application/zip")


def _query(request: Request) -> dict[str, list[str]]:
    query = request.query_params
    return {name: query.getlist(name) for name in query}


def _merged(request: Request, upload: Upload) -> dict[str, list[str]]:
    given = _query(request)
    for name, found in upload.parameters.items():
        given[name] = given.get(name, []) + found
    return given


def _list_models(store: Store) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "aliases": store.aliases(name),
            "versions": [_list_version(store, name, v) for v in store.versions(name)],
        }
        for name in store.names()
    ]


def _list_version(store: Store, name: str, version: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"version": version, "reference": f"{name}@{version}"}
    try:
        model = store.resolve(f"{name}@{version}")
    except ModelError as error:
        # One broken file must not hide the others.
        return entry | {"error": error.as_dict()}
    return entry | {
        "sha256": model.sha256,
        "masks": [mask for mask in MASKS if available(mask, model.manifest)],
        "manifest": json.loads(model.manifest.to_json()),
    }


def _shape(
    request: Request, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
) -> Response:
    """The one error shape; the outcome is counted here too."""
    endpoint = {r.path: r.path.strip("/") for r in ROUTES}.get(_local_path(request), "other")
    request.app.state.desk.metrics.outcome(endpoint, body["code"])
    return JSONResponse({"error": body}, status, headers)


def _local_path(request: Request) -> str:
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, IsletError)
    headers = {}
    if isinstance(error, ServiceBusy):
        headers["Retry-After"] = str(error.details["retry_after_s"])
    return _shape(request, status_of(error), error.as_dict(), headers)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    paths = ", ".join(f"{'/'.join(sorted(r.methods or ()))} /v1{r.path}" for r in ROUTES)
    body = {
        "code": ROUTER_CODES.get(error.status_code, "bad_request"),
        "message": f"{error.detail}: there are {paths}.",
        "details": {},
    }
    return _shape(request, error.status_code, body, dict(error.headers or {}))


async def _gone(request: Request, _: Exception) -> Response:
    return await _refuse(request, Cancelled("The client went away during the upload."))


async def _fail(request: Request, error: Exception) -> Response:
    """Log what happened under an id, and tell the client the id alone.

    The exception's text stays out of the log as well: a reader's may quote a patient's header.
    """
    number = uuid.uuid4().hex
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("internal error %s: %s\n%s", number, type(error).__name__, frames)
    body = {
        "code": INTERNAL,
        "message": f"Islet failed; the operator finds the cause in the log under {number}.",
        "details": {"id": number},
    }
    return _shape(request, 500, body)
