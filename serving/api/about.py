"""The OpenAPI document of ``/v1``, made of the endpoints themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imaging.version import VERSION
from serving.api.desk import desk_of
from serving.api.endpoint import Endpoint
from serving.api.schemas import SCHEMAS, errors_for, json_answer
from serving.guard.identity import Role
from serving.guard.rules import is_open

# What any endpoint can answer, mostly by the guard: a query that is too long, no valid token, a
# role that is missing, too many requests at once, a failure, no answer of the identity provider.
_EVERYWHERE = (400, 401, 403, 429, 500, 503)


def document(endpoints: Sequence[Endpoint], tokens: bool) -> dict[str, Any]:
    """The whole document, JSON-serialisable.

    Args:
        endpoints: what there is.
        tokens: whether the service asks for them.
    """
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Islet",
            "version": VERSION,
            "description": "Segments abdominal CTs. For research; not a medical device.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/v1"}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}] if tokens else [],
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    answers = errors_for(*_EVERYWHERE) | dict(endpoint.operation["responses"])
    return dict(endpoint.operation) | {
        "x-role": endpoint.role,
        "responses": dict(sorted(answers.items())),
    }


async def get_openapi(request: Request) -> Response:
    """``GET /openapi.json``: this interface, described."""
    tokens = not is_open(desk_of(request).settings)
    return JSONResponse(document(request.app.state.endpoints, tokens))


ENDPOINTS = (
    Endpoint(
        "GET",
        "/openapi.json",
        get_openapi,
        Role.READ,
        {
            "operationId": "openapi",
            "summary": "This document",
            "responses": {"200": json_answer("OpenAPI 3.1.", {"type": "object"})},
        },
    ),
)
