"""Every role against every endpoint that there is, through the guard and the real door."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount

from serving import monailabel
from serving.api import door
from serving.api.endpoint import Endpoint
from serving.guard.identity import Identity, Role
from tests.serving.guard.apps import Guarded, bearer, token

MOUNTS = {"/v1": door.ENDPOINTS, "/monailabel": monailabel.ENDPOINTS}
# What needs neither a role nor a token: the panel's log-in.
OPEN = {("GET", "/monailabel/auth/"), ("POST", "/monailabel/auth/token")}
ALL = [(mount, endpoint) for mount, endpoints in MOUNTS.items() for endpoint in endpoints]


async def _done(_: Request) -> Response:
    return PlainTextResponse("done")


def _stub(endpoints: tuple[Endpoint, ...]) -> door.Door:
    """The real door with its real roles; every endpoint only says that it was reached."""
    made = door.Door([dataclasses.replace(e, handle=_done) for e in endpoints])
    made.desk = SimpleNamespace(metrics=SimpleNamespace(outcome=lambda *_: None))  # type: ignore[assignment]
    return made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Guarded, dict[str, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("roles")
    people = {str(role): bearer(token(folder, role)) for role in Role} | {"nobody": {}}
    app = Starlette(routes=[Mount(path, _stub(found)) for path, found in MOUNTS.items()])
    return Guarded(app, tokens=folder / "tokens.toml"), people


def test_every_endpoint_has_a_role_but_those_named_here() -> None:
    found = {(e.method, m + e.path) for m, e in ALL if e.role is None}
    assert found == OPEN
    assert len(ALL) > 20


@pytest.mark.parametrize(
    ("mount", "endpoint"), ALL, ids=[f"{e.method} {m}{e.path}" for m, e in ALL]
)
def test_who_reaches_it(
    guarded: tuple[Guarded, dict[str, dict[str, str]]], mount: str, endpoint: Endpoint
) -> None:
    service, people = guarded
    path = mount + re.sub(r"\{[^}]+\}", "x", endpoint.path)
    is_open = (endpoint.method, mount + endpoint.path) in OPEN
    for who, headers in people.items():
        answer = service.ask(path, endpoint.method, headers=headers)
        if is_open or (who != "nobody" and _may(Role(who), endpoint.role)):
            expected = 200
        else:
            expected = 401 if who == "nobody" else 403
        assert answer.status_code == expected, who


def _may(granted: Role, needed: Role | None) -> bool:
    return needed is None or Identity("x", frozenset({granted})).may(needed)


def test_what_changes_things_needs_more_than_reading() -> None:
    for mount, endpoint in ALL:
        if (
            endpoint.method not in ("GET", "HEAD")
            and (endpoint.method, mount + endpoint.path) not in OPEN
        ):
            assert endpoint.role in (Role.SEGMENT, Role.ADMIN), endpoint.path


def test_models_are_changed_by_admins_alone() -> None:
    changing = [e for e in door.ENDPOINTS if e.path.startswith("/models") and e.method != "GET"]
    assert {e.role for e in changing} == {Role.ADMIN}
