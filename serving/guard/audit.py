"""The audit log: who asked for what, when, and what came of it; a line of JSON a request.

Nothing of a query, a header or a body is written, and paths only as templates: names, numbers and
UIDs of patients cannot get in. What an endpoint adds must have the form of a fact.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imaging.errors import BadParameter

logger = logging.getLogger("islet.guard")

# Where endpoints leave facts in a request's ASGI scope, as a dict.
SCOPE_KEY = "islet.audit"
_FACTS: dict[str, re.Pattern[str]] = {
    "route": re.compile(r"/[a-z0-9_{}/.:-]{0,127}"),
    "code": re.compile(r"[a-z0-9_]{1,48}"),
    "job": re.compile(r"[0-9a-f]{32}"),
    "server": re.compile(r"[a-z0-9][a-z0-9_-]{0,63}"),
    "model": re.compile(r"[0-9a-f]{64}|[a-z0-9][a-z0-9._-]{0,63}@[a-z0-9-]{1,32}"),
}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class AuditLog:
    """A file that lines are added to, safely also from several processes.

    ``logrotate`` may move it away at any time: the next line begins a new file. When a line cannot
    be written, the request goes on and the service's own log says so, at level error.

    Args:
        path: of the file; made readable for its owner and group.

    Raises:
        BadParameter: it cannot be opened now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = self._open()
        except OSError as error:
            raise BadParameter(
                f"The audit log {path.name} cannot be written ({error.strerror}); make its folder "
                "and let the service's user write there."
            ) from error

    def write(self, line: Mapping[str, Any]) -> None:
        """Add one line."""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            self._follow()
            written = os.write(self._file, data)
        except OSError as error:
            logger.error("a request is missing in the audit log: %s", error.strerror)
        else:
            if written < len(data):
                logger.error("a request is cut off in the audit log: is its disk full?")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _open(self) -> int:
        # One write to a file opened so is one piece in it, whoever else writes.
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _follow(self) -> None:
        """Open the file anew where it was moved away or removed."""
        try:
            moved = not os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            moved = True
        if moved:
            opened = self._open()
            os.close(self._file)
            self._file = opened


def line_of(facts: Mapping[str, Any], method: str, **known: Any) -> dict[str, Any]:
    """A line of the log.

    Args:
        facts: what endpoints left: ``route``, ``code``, ``job``, ``server`` (an archive) and
            ``model``; any other name, and any value that has not the form of its fact, is left out.
        method: of the request.
        known: what the guard itself knows, written as it is.
    """
    safe = {
        name: facts[name]
        for name, form in _FACTS.items()
        if isinstance(facts.get(name), str) and form.fullmatch(facts[name])
    }
    return known | {"method": method if method in _METHODS else "other"} | safe
