"""The page at ``/``: built files of the browser's part, and the list of structures it draws with.

``npm ci --prefix serving/ui && npm run build --prefix serving/ui`` builds them.
"""

from __future__ import annotations

import re
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from models.labels import DEFAULT_MASKS, STRUCTURES

BUILT = Path(__file__).with_name("built")

# What the browser may load for the page: NiiVue's font is a data URL, a picture of a result a blob.
# The guard forbids everything to pages that say nothing.
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".txt": "text/plain"}
# Names of the build: no folder, nothing hidden.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.(?:js|css|txt)")
_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"

_NOT_BUILT = (
    "Islet serves its HTTP interface under /v1; see /v1/openapi.json.\n\n"
    "The page that belongs here is not built. Where npm is at hand:\n\n"
    "    npm ci --prefix serving/ui\n"
    "    npm run build --prefix serving/ui\n"
)


async def get_index(_: Request) -> Response:
    """``GET /``: the page, or how to build it."""
    index = BUILT / "index.html"
    if not index.is_file():
        return PlainTextResponse(_NOT_BUILT, headers={"Cache-Control": _ASK_AGAIN})
    headers = {"Cache-Control": _ASK_AGAIN, "Content-Security-Policy": _CONTENT_POLICY}
    return FileResponse(index, headers=headers, media_type="text/html")


async def get_structures(_: Request) -> Response:
    """``GET /ui/structures.json``: label values and colours, and the masks of a plain request."""
    listed = [{"name": s.name, "value": s.value, "colour": s.colour} for s in STRUCTURES]
    body = {"structures": listed, "default_masks": DEFAULT_MASKS}
    return JSONResponse(body, headers={"Cache-Control": _ASK_AGAIN})


async def get_built(request: Request) -> Response:
    """``GET /ui/{name}``: a built file; its name holds its hash, so it never changes."""
    name = request.path_params["name"]
    path = BUILT / name
    if not _NAME.fullmatch(name) or not path.is_file():
        raise HTTPException(404)
    caching = _FOR_EVER if "-" in name else _ASK_AGAIN
    kind = _MEDIA_TYPES[path.suffix]
    return FileResponse(path, headers={"Cache-Control": caching}, media_type=kind)


page = Starlette(
    routes=[
        Route("/", get_index, methods=["GET"]),
        Route("/ui/structures.json", get_structures, methods=["GET"]),
        Route("/ui/{name}", get_built, methods=["GET"]),
    ]
)
