"""A small application behind a guard, and what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from serving.guard.audit import SCOPE_KEY as AUDIT_KEY
from serving.guard.identity import SCOPE_KEY as IDENTITY_KEY
from serving.guard.identity import Role
from serving.guard.middleware import Guard
from serving.guard.tokens import Token, changed_tokens, new_secret, sha256_of
from serving.settings import Settings
from tests.serving.guard.test_tokens import NOW

Answer = httpx.Response
LOCALHOST = "http://127.0.0.1:3000"


class App:
    """Answers every path; keeps the scopes it was asked with.

    Attributes:
        scopes: of every request that came through.
        facts: what it leaves for the audit log.
        html: whether it answers with a page.
    """

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.facts: dict[str, str] = {}
        self.html = False
        methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
        self.inner = Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.inner(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        self.scopes.append(dict(request.scope))
        request.scope[AUDIT_KEY].update(self.facts)
        body = await request.body()
        if self.html:
            return HTMLResponse("<p>hello</p>")
        identity = request.scope.get(IDENTITY_KEY)
        return JSONResponse({"bytes": len(body), "subject": identity and identity.subject})


def token(folder: Path, role: Role, subject: str | None = None) -> str:
    """A new token in the folder's ``tokens.toml``."""
    secret = new_secret()
    with changed_tokens(folder / "tokens.toml") as tokens:
        name = subject or f"who-{role}"
        tokens.append(Token(name, frozenset({role}), sha256_of(secret), NOW))
    return secret


def bearer(secret: str) -> dict[str, str]:
    """The header that a token travels in."""
    return {"Authorization": f"Bearer {secret}"}


class Guarded:
    """An application behind a guard, asked in this process.

    Args:
        app: what is guarded.
        settings: of the service.
    """

    def __init__(self, app: Any, **settings: Any) -> None:
        self.guard = Guard(app, Settings(**settings))

    def ask(self, path: str, method: str = "GET", url: str = LOCALHOST, **more: Any) -> Answer:
        """One request."""
        return asyncio.run(self.asked(path, method, url, **more))

    async def asked(
        self, path: str, method: str = "GET", url: str = LOCALHOST, **more: Any
    ) -> Answer:
        """One request, in a loop that runs."""
        transport = httpx.ASGITransport(self.guard)
        async with httpx.AsyncClient(transport=transport, base_url=url) as client:
            return await client.request(method, path, **more)


async def raw(
    guard: Guard, path: str, headers: dict[str, str], body: AsyncIterator[bytes] | None = None
) -> list[dict[str, Any]]:
    """The messages that answer a request with exactly this path and this body."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": "POST" if body else "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "server": ("127.0.0.1", 3000),
        "client": ("127.0.0.1", 4000),
    }

    async def receive() -> dict[str, Any]:
        if body is None:
            return {"type": "http.request", "body": b"", "more_body": False}
        chunk = await anext(body, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await guard(scope, receive, send)
    return sent


def lines(path: Path) -> list[dict[str, Any]]:
    """What an audit log holds."""
    return [json.loads(line) for line in path.read_text().splitlines()]
