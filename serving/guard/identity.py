"""Who asks, and what that allows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from starlette.requests import Request

from imaging.errors import Forbidden, Unauthenticated

# Where the guard leaves the identity in a request's ASGI scope.
SCOPE_KEY = "islet.identity"


class Role(StrEnum):
    """What a token is for.

    ``read`` sees models, metrics and its own jobs; ``segment`` also asks for segmentations and
    cancels its own jobs; ``admin`` also sees every job and changes models.
    """

    READ = "read"
    SEGMENT = "segment"
    ADMIN = "admin"


_IMPLIED: dict[Role, frozenset[Role]] = {
    Role.READ: frozenset({Role.READ}),
    Role.SEGMENT: frozenset({Role.READ, Role.SEGMENT}),
    Role.ADMIN: frozenset(Role),
}


@dataclass(frozen=True)
class Identity:
    """Who asks.

    Attributes:
        subject: name of the owner of what is asked for; never a patient's.
        roles: as granted, without those they imply.
    """

    subject: str
    roles: frozenset[Role]

    def may(self, role: Role) -> bool:
        """Whether a granted role is ``role`` or implies it."""
        return any(role in _IMPLIED[granted] for granted in self.roles)


# Whoever asks a service without tokens, which listens on this machine alone.
LOCAL = Identity("local", frozenset(Role))


def identity_of(request: Request) -> Identity:
    """Who asks, as the guard found.

    Raises:
        Unauthenticated: nobody, or the request did not come through the guard.
    """
    found = request.scope.get(SCOPE_KEY)
    if not isinstance(found, Identity):
        raise unauthenticated()
    return found


def require(identity: Identity, role: Role) -> None:
    """Refuse who lacks a role.

    Raises:
        Forbidden: neither the role nor one that implies it was granted.
    """
    if not identity.may(role):
        granted = ", ".join(sorted(identity.roles)) or "no role"
        raise Forbidden(
            f"This needs the role {role}; the token grants {granted}. "
            "Ask the operator for another token.",
            needed=str(role),
        )


def unauthenticated() -> Unauthenticated:
    """The one refusal of every token that is missing or wrong: it does not say in what."""
    return Unauthenticated("This needs a valid token; send `Authorization: Bearer TOKEN`.")
