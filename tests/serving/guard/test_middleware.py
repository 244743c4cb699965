"""The guard around a small application: who gets in, what is refused and what is noted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imaging.errors import BadParameter, ProviderAway
from serving.guard.identity import Role
from serving.guard.middleware import Guard
from serving.settings import Bounds, Settings
from serving.statuses import status_of
from tests.serving.guard.apps import Answer, App, Guarded, bearer, lines, raw, token
from tests.serving.guard.provider import serving

NAME = "DOE^JANE"


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def guarded(app: App, tmp_path: Path) -> Guarded:
    """With tokens and an audit log."""
    token(tmp_path, Role.ADMIN)
    return Guarded(app, tokens=tmp_path / "tokens.toml", audit=tmp_path / "audit.jsonl")


def code(answer: Answer) -> str:
    found: str = answer.json()["error"]["code"]
    assert set(answer.json()["error"]) == {"code", "message", "details"}
    return found


def test_without_a_token_nothing_but_the_page_and_health(app: App, guarded: Guarded) -> None:
    for path in ("/", "/ui/app.js", "/livez", "/readyz", "/healthz"):
        assert guarded.ask(path).status_code == 200
    asked = len(app.scopes)
    for path in (
        "/v1/jobs",
        "/v1/openapi.json",
        "/metrics",
        "/schema.json",
        "/nothing",
        "/v2/jobs",
    ):
        for method in ("GET", "POST", "OPTIONS"):
            answer = guarded.ask(path, method)
            assert (answer.status_code, code(answer)) == (401, "unauthenticated")
            assert answer.headers["www-authenticate"] == 'Bearer realm="islet"'
    assert len(app.scopes) == asked


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        (Role.READ, "/v1/jobs", 200),
        (Role.READ, "/metrics", 200),
        (Role.READ, "/monailabel/info/", 403),
        (Role.SEGMENT, "/monailabel/info/", 200),
        (Role.SEGMENT, "/metrics", 200),
        (Role.SEGMENT, "/schema.json", 403),
        (Role.ADMIN, "/schema.json", 200),
        (Role.ADMIN, "/docs.json", 200),
        (Role.ADMIN, "/nothing", 404),
        (Role.ADMIN, "/ui/../metrics", 404),
        (Role.READ, "/v2/jobs", 404),
    ],
)
def test_roles_outside_v1(
    app: App, guarded: Guarded, tmp_path: Path, role: Role, path: str, status: int
) -> None:
    # A client library would tidy the path up, so it is sent as it is.
    answer = asyncio.run(raw(guarded.guard, path, bearer(token(tmp_path, role, "fresh"))))
    assert answer[0]["status"] == 401
    guarded.guard._tokens._checked -= 2  # type: ignore[union-attr]
    secret = token(tmp_path, role)
    answer = asyncio.run(raw(guarded.guard, path, bearer(secret)))
    assert answer[0]["status"] == status
    assert len(app.scopes) == (status == 200)
    if status != 200:
        body = json.loads(answer[1]["body"])["error"]
        assert body["code"] == {403: "forbidden", 404: "not_found"}[status]


def test_a_token_comes_in_one_header_and_nowhere_else(
    app: App, guarded: Guarded, tmp_path: Path
) -> None:
    secret = token(tmp_path, Role.ADMIN, "late")
    guarded.guard._tokens._checked -= 2  # type: ignore[union-attr]
    assert guarded.ask("/v1/jobs", headers=bearer(secret)).json()["subject"] == "late"
    assert guarded.ask("/v1/jobs", headers={"Authorization": f"bearer {secret}"}).is_success
    two = [("Authorization", f"Bearer {secret}"), ("Authorization", f"Bearer {secret}")]
    for more in (
        {"params": {"token": secret, "access_token": secret}},
        {"headers": {"Cookie": f"token={secret}"}},
        {"headers": {"Authorization": f"Basic {secret}"}},
        {"headers": {"Authorization": secret}},
        {"headers": {"Authorization": f"Bearer  {secret}"}},
        {"headers": {"Authorization": "Bearer"}},
        {"headers": {"Authorization": f"Bearer {secret}, Bearer {secret}"}},
        {"headers": {"X-Api-Key": secret}},
        {"headers": two},
        {"headers": bearer("x" * 100_000)},
        {"headers": bearer("a.b.c")},
    ):
        answer = guarded.ask("/v1/jobs", **more)
        assert (answer.status_code, code(answer)) == (401, "unauthenticated")
    bodies = {guarded.ask("/v1/jobs", headers=h).text for h in ({}, bearer("islet_x"), bearer("y"))}
    assert len(bodies) == 1


def test_too_many_wrong_tokens_have_to_wait_and_a_right_one_does_not(
    app: App, tmp_path: Path
) -> None:
    secret = token(tmp_path, Role.READ)
    guarded = Guarded(app, bounds=Bounds(wrong_tokens=3), tokens=tmp_path / "tokens.toml")
    statuses = [guarded.ask("/v1/x", headers=bearer("wrong")).status_code for _ in range(4)]
    assert statuses == [401, 401, 401, 429]
    answer = guarded.ask("/v1/x", headers=bearer("wrong"))
    assert code(answer) == "busy"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    # Whoever shares the address with the guesser goes on working.
    assert guarded.ask("/v1/x", headers=bearer(secret)).status_code == 200
    assert guarded.ask("/v1/x").status_code == 401


def test_a_provider_decides_beside_the_file(app: App, tmp_path: Path) -> None:
    secret = token(tmp_path, Role.READ, "alice")
    with serving() as server:
        config = tmp_path / "oidc.toml"
        config.write_text(
            f"issuer = '{server.issuer}'\naudience = 'islet'\n"
            "roles_claim = 'realm_access.roles'\n[roles]\nradiology = 'segment'"
        )
        guarded = Guarded(app, oidc=config, tokens=tmp_path / "tokens.toml")
        alone = Guarded(app, oidc=config)
        away = Guarded(app, oidc=config)
        good = server.token()
        assert guarded.ask("/v1/x", headers=bearer(good)).json()["subject"] == "oidc:alice"
        assert guarded.ask("/v1/x", headers=bearer(secret)).json()["subject"] == "alice"
        assert alone.ask("/v1/x", headers=bearer(good)).status_code == 200
        assert alone.ask("/v1/x", headers=bearer(secret)).status_code == 401
        assert alone.ask("/v1/x").status_code == 401
        powerless = server.token(realm_access={"roles": ["nurses"]})
        assert alone.ask("/metrics", headers=bearer(powerless)).status_code == 403
    answer = away.ask("/v1/x", headers=bearer(good))
    assert (answer.status_code, code(answer)) == (status_of(ProviderAway), "provider_away")
    assert answer.headers["retry-after"] == "10"
    assert alone.ask("/v1/x", headers=bearer(good)).status_code == 200


def test_without_tokens_this_machine_alone(app: App, tmp_path: Path) -> None:
    guarded = Guarded(app, audit=tmp_path / "audit.jsonl")
    assert guarded.ask("/v1/jobs").json()["subject"] == "local"
    assert guarded.ask("/v1/jobs", url="http://localhost:3000").status_code == 200
    assert guarded.ask("/v1/jobs", url="http://10.0.0.1:3000").status_code == 403
    answer = guarded.ask("/v1/jobs", headers={"Host": "evil.example"})
    assert (answer.status_code, code(answer)) == (403, "forbidden")
    answer = guarded.ask("/v1/jobs", "POST", headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    own = {"Origin": "http://127.0.0.1:3000"}
    assert guarded.ask("/v1/jobs", "POST", headers=own).status_code == 200
    assert guarded.ask("/", headers={"Host": "evil.example"}).status_code == 403
    assert guarded.ask("/nothing").status_code == 404
    assert guarded.ask("/schema.json").status_code == 200


def test_headers_of_answers(app: App, guarded: Guarded, tmp_path: Path) -> None:
    plain = guarded.ask("/livez").headers
    assert plain["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in plain
    assert "cache-control" not in plain
    refused = guarded.ask("/v1/jobs").headers
    assert refused["cache-control"] == "no-store"
    app.html = True
    page = guarded.ask("/").headers
    assert "frame-ancestors 'none'" in page["content-security-policy"]
    assert "default-src 'none'" in page["content-security-policy"]
    assert (page["x-frame-options"], page["referrer-policy"]) == ("DENY", "no-referrer")


def test_the_length_of_a_query_is_bounded(app: App) -> None:
    guarded = Guarded(app, bounds=Bounds(query_bytes=100))
    assert guarded.ask("/v1/x?" + "a" * 100).status_code == 200
    answer = guarded.ask("/v1/x?" + "a" * 101)
    assert (answer.status_code, code(answer)) == (400, "bad_parameter")


def test_requests_of_one_subject_are_bounded_and_health_is_not(app: App, tmp_path: Path) -> None:
    secret, other = (token(tmp_path, Role.READ, name) for name in ("one", "two"))
    guarded = Guarded(app, bounds=Bounds(at_once=2), tokens=tmp_path / "tokens.toml")

    async def story() -> None:
        end = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x"
            await end.wait()

        async def upload(token: str) -> int:
            sent = await raw(guarded.guard, "/v1/x", bearer(token), slow())
            return int(sent[0]["status"])

        running = [asyncio.create_task(upload(secret)) for _ in range(2)]
        await asyncio.sleep(0.02)
        refused = await guarded.asked("/v1/x", headers=bearer(secret))
        assert (refused.status_code, code(refused)) == (429, "busy")
        assert (await guarded.asked("/v1/x", headers=bearer(other))).status_code == 200
        assert (await guarded.asked("/readyz", headers=bearer(secret))).status_code == 200
        end.set()
        assert await asyncio.gather(*running) == [200, 200]
        assert await upload(secret) == 200

    asyncio.run(story())


def test_websockets_are_closed(app: App) -> None:
    sent: list[dict[str, Any]] = []

    async def story() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await Guard(app, Settings())({"type": "websocket", "path": "/"}, receive, send)

    asyncio.run(story())
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert app.scopes == []


def test_what_is_noted(app: App, guarded: Guarded, tmp_path: Path) -> None:
    secret = token(tmp_path, Role.SEGMENT, "gateway")
    guarded.guard._tokens._checked -= 2  # type: ignore[union-attr]
    app.facts = {"route": "/v1/jobs/{id}", "job": "0" * 32, "model": "starter@6", "name": NAME}
    guarded.ask("/v1/jobs/x", "POST", headers=bearer(secret), content=b"y" * 1000)
    app.facts = {"job": NAME, "route": f"/v1/{NAME}"}
    guarded.ask(
        f"/v1/dicomweb/{NAME}",
        "GET",
        headers={**bearer(secret), "X-Patient": NAME, "User-Agent": NAME},
        params={"PatientName": NAME},
    )
    guarded.ask(f"/v1/{NAME}?{NAME}", headers=bearer(NAME))
    guarded.ask(f"/{NAME}", NAME, headers=bearer(secret))
    guarded.ask("/livez")
    guarded.ask("/")

    text = (tmp_path / "audit.jsonl").read_text()
    assert NAME not in text
    assert secret not in text
    first, second, third, fourth = lines(tmp_path / "audit.jsonl")
    assert first.pop("time").endswith("+00:00")
    assert 0 <= first.pop("seconds") < 5
    assert first.pop("bytes_out") > 0
    assert first == {
        "method": "POST",
        "route": "/v1/jobs/{id}",
        "subject": "gateway",
        "address": "127.0.0.1",
        "status": 200,
        "bytes_in": 1000,
        "job": "0" * 32,
        "model": "starter@6",
    }
    assert "route" not in second
    assert (third["subject"], third["code"], third["route"]) == (
        None,
        "unauthenticated",
        "/v1/{path}",
    )
    assert (fourth["method"], fourth["route"], fourth["code"]) == ("other", "/{path}", "not_found")


def test_addresses_may_stay_out_of_the_log(app: App, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    guarded = Guarded(app)
    guarded.guard = Guard(app, Settings(audit=path, audit_addresses=False))
    guarded.ask("/v1/x")
    assert lines(path)[0]["address"] is None


def test_a_failure_of_the_application_is_noted_and_goes_up(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError(NAME)

    guarded = Guarded(app, audit=tmp_path / "audit.jsonl")
    with pytest.raises(RuntimeError):
        guarded.ask("/v1/x")
    (line,) = lines(tmp_path / "audit.jsonl")
    assert line["status"] is None
    assert NAME not in str(line)


def test_files_that_cannot_be_used_stop_the_start(app: App, tmp_path: Path) -> None:
    for settings in (
        Settings(tokens=tmp_path / "missing.toml"),
        Settings(oidc=tmp_path / "missing.toml"),
        Settings(audit=tmp_path / "missing" / "audit.jsonl"),
    ):
        with pytest.raises(BadParameter, match="cannot be"):
            Guard(app, settings)
