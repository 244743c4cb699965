"""One endpoint is one value: its route, its role and its OpenAPI operation."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from imaging.errors import BadParameter
from serving.guard.identity import Role, identity_of

Handler = Callable[[Request], Awaitable[Response]]

# Where an endpoint leaves facts for the audit log: ids of jobs, references of models.
AUDIT_KEY = "islet.audit"
# JSON bodies name things; none is long.
_MOST_JSON_BYTES = 65536


@dataclass(frozen=True)
class Endpoint:
    """What the door needs to answer one method of one path, and to say so in its document.

    Attributes:
        method: in capitals.
        path: below ``/v1``, with ``{name}`` for parameters.
        handle: makes the answer, or raises an error of the tree.
        role: that who asks must have; ``None`` answers whomever the guard lets through.
        operation: OpenAPI operation, without the answers that every endpoint can give.
    """

    method: str
    path: str
    handle: Handler
    role: Role | None
    operation: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The operation's id, which is the endpoint's name in metrics."""
        return str(self.operation["operationId"])


def note(request: Request, **facts: str) -> None:
    """Leave facts about a request for the audit log; no identifier of a patient."""
    request.scope.setdefault(AUDIT_KEY, {}).update(facts)


def owner_seen(request: Request) -> str | None:
    """The owner whose jobs a caller may see: ``None`` is everybody's, for an admin."""
    identity = identity_of(request)
    return None if identity.may(Role.ADMIN) else identity.subject


async def json_object(request: Request, known: tuple[str, ...]) -> dict[str, Any]:
    """The JSON object that a small body holds.

    Args:
        request: its body is read here.
        known: keys that it may have.

    Raises:
        BadParameter: no JSON object, one over 64 KiB, or a key that is not known.
    """
    body = bytearray()
    async for chunk in request.stream():
        body.extend(chunk)
        if len(body) > _MOST_JSON_BYTES:
            raise BadParameter(
                f"The body has more than {_MOST_JSON_BYTES} bytes; send a small JSON object."
            )
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadParameter("The body is no JSON; send a JSON object.") from error
    if not isinstance(given, dict):
        raise BadParameter("The body is JSON but no object; send a JSON object.")
    for key in given:
        if key not in known:
            # Halves of surrogate pairs, which JSON can name, could not be sent back.
            shown = key[:64].encode("utf-8", "replace").decode()
            raise BadParameter(
                f"There is no field {shown!r}; there are {', '.join(known)}.",
                parameter=shown,
                known=list(known),
            )
    return given
