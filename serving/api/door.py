"""The ASGI application under ``/v1``: routes, roles, and one shape for every error."""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from imaging.errors import Cancelled, IsletError, ServiceBusy
from serving.api import about, dicomweb, jobs, models, segment
from serving.api.desk import Desk
from serving.api.endpoint import Endpoint, note
from serving.guard.identity import identity_of, require
from serving.statuses import INTERNAL, ROUTER_CODES, status_of

logger = logging.getLogger("islet.serving")

ENDPOINTS: tuple[Endpoint, ...] = (
    *segment.ENDPOINTS,
    *jobs.ENDPOINTS,
    *dicomweb.ENDPOINTS,
    *models.ENDPOINTS,
    *about.ENDPOINTS,
)

# Where the endpoint that answers is noted in a request's scope.
_ENDPOINT = "islet.endpoint"


class Door:
    """The ASGI application; ``desk`` must be set before the first request.

    No Starlette itself, so that BentoML hands over everything under its path, unknown paths
    included, and answers there have this shape too.

    Args:
        endpoints: what there is.
    """

    def __init__(self, endpoints: Sequence[Endpoint] = ENDPOINTS) -> None:
        self.endpoints = tuple(endpoints)
        self.app = Starlette(
            routes=_routes(self.endpoints),
            exception_handlers={
                IsletError: _refuse,
                HTTPException: _refuse_route,
                ClientDisconnect: _gone,
                Exception: _fail,
            },
        )
        self.app.state.endpoints = self.endpoints

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


def _routes(endpoints: Sequence[Endpoint]) -> list[Route]:
    """One route a path, whatever its methods, so that a 405 names all that there are."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [Route(path, _dispatch(there), methods=list(there)) for path, there in by_path.items()]


def _dispatch(there: Mapping[str, Endpoint]) -> Callable[[Request], Awaitable[Response]]:
    async def dispatch(request: Request) -> Response:
        # Starlette adds HEAD wherever there is GET.
        endpoint = there["GET" if request.method == "HEAD" else request.method]
        request.scope[_ENDPOINT] = endpoint
        note(request, route=f"{request.scope.get('root_path', '')}{endpoint.path}")
        if endpoint.role is not None:
            require(identity_of(request), endpoint.role)
        response = await endpoint.handle(request)
        request.app.state.desk.metrics.outcome(endpoint.name, "ok")
        return response

    return dispatch


def _shape(
    request: Request, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
) -> Response:
    """The one error shape; the outcome is counted here too."""
    endpoint: Endpoint | None = request.scope.get(_ENDPOINT)
    name = endpoint.name if endpoint else "other"
    request.app.state.desk.metrics.outcome(name, body["code"])
    note(request, code=body["code"])
    return JSONResponse({"error": body}, status, headers)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, IsletError)
    headers = {}
    if isinstance(error, ServiceBusy):
        headers["Retry-After"] = str(error.details["retry_after_s"])
    return _shape(request, status_of(error), error.as_dict(), headers)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {
        "code": ROUTER_CODES.get(error.status_code, "bad_request"),
        "message": f"{error.detail}; /v1/openapi.json says what there is.",
        "details": {},
    }
    return _shape(request, error.status_code, body, dict(error.headers or {}))


async def _gone(request: Request, _: Exception) -> Response:
    return await _refuse(request, Cancelled("The client went away."))


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
