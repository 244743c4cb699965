"""The service's own router is walked: no route is there that the guard does not stand before."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from models.store import Store
from serving.api import door
from serving.guard.identity import Role
from serving.guard.middleware import Guard
from serving.metrics import Metrics
from serving.settings import Settings
from tests.serving.guard.apps import bearer, token
from tests.serving.guard.provider import serving
from tests.serving.guard.routes import Asked, reached, routes_of

PAGE = {("GET", path) for path in ("/", "/ui/structures.json", "/ui/{name}")}
HEALTH = {("GET", path) for path in ("/livez", "/healthz", "/readyz")}
LOGIN = {("GET", "/monailabel/auth/"), ("POST", "/monailabel/auth/token")}
OPEN = PAGE | HEALTH | LOGIN


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Headers of everybody, and the settings under which they are known."""
    folder = tmp_path_factory.mktemp("routes")
    known = {str(role): bearer(token(folder, role)) for role in Role}
    with serving() as provider:
        oidc = folder / "oidc.toml"
        oidc.write_text(
            f"issuer = '{provider.issuer}'\naudience = 'islet'\n"
            "roles_claim = 'realm_access.roles'\n[roles]\nradiology = 'segment'"
        )
        powerless = bearer(provider.token(realm_access={"roles": ["nurses"]}))
        settings = Settings(
            tokens=folder / "tokens.toml", oidc=oidc, spool=folder / "spool", workers=0
        )
        yield {"nobody": {}, "no role": powerless, "settings": settings, **known}


@pytest.fixture(scope="module")
def service(people: dict[str, Any]) -> Iterator[Any]:
    """The service's module, its applications made; no process is started."""
    with warnings.catch_warnings():
        # BentoML's own imports use what is deprecated.
        warnings.simplefilter("ignore")
        from serving import service as module
    settings = people["settings"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "settings", settings)
        patch.setattr(module, "default_store", lambda: Store(settings.spool / "store"))
        patch.setattr(module, "Metrics", lambda: Metrics(CollectorRegistry()))
        patch.setattr(module.Islet, "middlewares", [(Guard, {"settings": settings})])
        patch.setattr(module, "instance", module.Islet.inner(), raising=False)
        yield module
        module.instance._jobs.close()


@pytest.fixture
def made(service: Any) -> Any:
    """The application as it is served, BentoML's own routes around ours."""
    return _application(service)


def _application(service: Any) -> Any:
    """What ``Islet.to_asgi`` makes, with the instance that its lifespan would make."""
    from _bentoml_impl.server.app import ServiceAppFactory

    service.Islet.inject_config()
    factory = ServiceAppFactory(service.Islet, is_main=True)
    factory._service_instance = service.instance
    return factory()


def without_heads(found: set[Asked]) -> set[Asked]:
    return {(method, path) for method, path in found if method != "HEAD"}


def test_every_route_that_answers_strangers_is_named_here(
    made: Any, people: dict[str, Any]
) -> None:
    there = without_heads(set(routes_of(made)))
    assert len(there) > 30
    assert there >= OPEN | {
        ("POST", "/v1/segment"),
        ("GET", "/schema.json"),
        ("GET", "/static_content/{file}"),
    }
    assert without_heads(reached(made, people["nobody"])) == OPEN


def test_who_has_no_role_reaches_no_more(made: Any, people: dict[str, Any]) -> None:
    assert without_heads(reached(made, people["no role"])) == OPEN


def test_a_reader_changes_nothing_and_an_admin_reaches_all(
    made: Any, people: dict[str, Any]
) -> None:
    reads = without_heads(reached(made, people["read"]))
    assert {method for method, _ in reads - OPEN} == {"GET"}
    segments = without_heads(reached(made, people["segment"]))
    assert reads < segments
    assert not any(path.startswith("/v1/models") for method, path in segments if method != "GET")
    assert without_heads(reached(made, people["admin"])) == without_heads(set(routes_of(made)))


async def _leak(_: Request) -> Response:
    return PlainTextResponse("everything")


def test_a_route_that_the_guard_does_not_know_is_not_reached(
    made: Any, people: dict[str, Any]
) -> None:
    made.router.routes.append(Route("/backdoor", _leak))
    assert ("GET", "/backdoor") not in reached(made, people["nobody"])


@pytest.mark.parametrize("where", ["open path", "no middleware"])
def test_an_unguarded_route_is_caught(
    service: Any,
    made: Any,
    people: dict[str, Any],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the tests above must find is found."""
    if where == "open path":
        more = Mount("/ui", Starlette(routes=[Route("/secret/deep", _leak)]))
        made.router.routes.insert(0, more)
        expected = {("GET", "/ui/secret/deep")}
    else:
        monkeypatch.setattr(service.Islet, "middlewares", [])
        made = _application(service)
        expected = {("GET", "/schema.json"), ("GET", "/metrics")}
    found = without_heads(reached(made, people["nobody"]))
    assert expected <= found - OPEN


def test_an_endpoint_without_a_role_is_caught(
    made: Any, people: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "require", lambda *_: None)
    found = without_heads(reached(made, people["no role"]))
    assert ("DELETE", "/v1/models/{name}/versions/{version}") in found - OPEN


def test_what_cannot_be_looked_into_is_no_route(made: Any) -> None:
    async def opaque(*_: Any) -> None: ...

    made.router.routes.append(Mount("/opaque", opaque))
    with pytest.raises(TypeError, match="function under /opaque shows no routes"):
        set(routes_of(made))
