"""Headers that every answer gets from the guard."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders

# Of a page that brings no policy of its own: it may be read, and nothing else.
PAGE_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
CHALLENGE = 'Bearer realm="islet"'


def finish_headers(headers: MutableHeaders, status: int, guarded: bool) -> None:
    """Add to an answer's headers what it lacks.

    Args:
        headers: of the answer, changed in place.
        status: of the answer.
        guarded: whether it may hold something of a patient, which no cache may keep.
    """
    headers.setdefault("X-Content-Type-Options", "nosniff")
    if guarded:
        headers.setdefault("Cache-Control", "no-store")
    if status == 401:
        headers.setdefault("WWW-Authenticate", CHALLENGE)
    if headers.get("content-type", "").startswith("text/html"):
        headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        headers.setdefault("X-Frame-Options", "DENY")
        headers.setdefault("Referrer-Policy", "no-referrer")
        headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
