"""Roles imply those below them; a request that passed no guard is nobody's."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from imaging.errors import Forbidden, Unauthenticated
from serving.guard.identity import LOCAL, SCOPE_KEY, Identity, Role, identity_of, require


def _asks(scope: dict[str, object]) -> Request:
    return Request({"type": "http", "headers": [], **scope})


@pytest.mark.parametrize(
    ("granted", "may"),
    [
        (set(), set()),
        ({Role.READ}, {Role.READ}),
        ({Role.SEGMENT}, {Role.READ, Role.SEGMENT}),
        ({Role.ADMIN}, set(Role)),
        ({Role.READ, Role.SEGMENT}, {Role.READ, Role.SEGMENT}),
    ],
)
def test_what_roles_allow(granted: set[Role], may: set[Role]) -> None:
    identity = Identity("gateway", frozenset(granted))
    assert {role for role in Role if identity.may(role)} == may
    for role in set(Role) - may:
        with pytest.raises(Forbidden, match=str(role)):
            require(identity, role)
    for role in may:
        require(identity, role)


def test_who_asks_is_what_the_guard_found_and_nothing_else() -> None:
    assert identity_of(_asks({SCOPE_KEY: LOCAL})) is LOCAL
    for scope in ({}, {SCOPE_KEY: "admin"}):
        with pytest.raises(Unauthenticated, match="Bearer"):
            identity_of(_asks(scope))
