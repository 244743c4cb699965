"""Every route of a running application, found by walking it, and who gets through to each."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles

# Wrappers keep the application that they hand a request to under one of these names.
_INNER = ("app", "_door", "_app")

Asked = tuple[str, str]


def routes_of(app: Any, prefix: str = "") -> Iterator[Asked]:
    """Method and path template of every route, through mounts and wrappers.

    Raises:
        TypeError: something is mounted that cannot be looked into.
    """
    if isinstance(app, StaticFiles):
        yield "GET", f"{prefix}/{{file}}"
        return
    while not hasattr(app, "routes"):
        inner = next((getattr(app, n) for n in _INNER if hasattr(app, n)), None)
        if inner is None:
            raise TypeError(f"{type(app).__name__} under {prefix or '/'} shows no routes.")
        app = inner
    for route in app.routes:
        path = prefix + getattr(route, "path", "")
        if isinstance(route, Route):
            yield from ((method, path) for method in route.methods or ())
        elif isinstance(route, Mount | Router) or hasattr(route, "app"):
            yield from routes_of(route.app, path)
        else:
            raise TypeError(f"{type(route).__name__} under {path} is no route that is known.")


def reached(app: Any, who: Mapping[str, str]) -> set[Asked]:
    """The routes that do not refuse a request with these headers for who sends it."""

    async def ask_all() -> set[Asked]:
        # What a handler makes of the request is not the question here.
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            found = set()
            for method, path in sorted(set(routes_of(app))):
                filled = re.sub(r"\{[^}]+\}", "x", path)
                answer = await client.request(method, filled, headers=dict(who))
                if answer.status_code not in (401, 403):
                    found.add((method, path))
            return found

    return asyncio.run(ask_all())
