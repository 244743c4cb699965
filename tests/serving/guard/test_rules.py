"""What is open, what a service without tokens answers, and where it may listen."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from starlette.datastructures import Headers

from imaging.errors import BadParameter, Forbidden
from serving.guard.identity import Role
from serving.guard.rules import (
    PATHS,
    asked_host,
    check_exposure,
    check_local,
    rule_of,
)
from serving.settings import Settings
from tests.serving.guard.apps import token

HERE = ("127.0.0.1", 3000)


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/", None),
        ("/ui/app.js", None),
        ("/livez", None),
        ("/readyz", None),
        ("/metrics", Role.READ),
        ("/v1/jobs", Role.READ),
        ("/v1/dicomweb/studies/1.2.3/series", Role.READ),
        ("/monailabel/info/", Role.SEGMENT),
        ("/monailabel/auth/", None),
        ("/monailabel/auth/token/valid", Role.SEGMENT),
        ("/docs.json", Role.ADMIN),
        ("/schema.json", Role.ADMIN),
    ],
)
def test_paths_with_a_rule(path: str, role: Role | None) -> None:
    rule = rule_of(path)
    assert rule is not None
    assert rule.role is role


@pytest.mark.parametrize(
    "path",
    [
        *("", "/v1", "/ui", "/metrics/", "/metricsx", "/v2/jobs", "/admin", "/UI/", "/livez/x"),
        *("//metrics", "/ui/../metrics", "/ui/./x", "/ui//x", "/ui/..", "/ui\\..\\metrics"),
        *("/v1/..", "/v1/../metrics", "ui/"),
    ],
)
def test_paths_without_one(path: str) -> None:
    assert rule_of(path) is None


def test_what_is_open_is_written_here_once_more() -> None:
    assert {rule.path for rule in PATHS if rule.role is None} == {
        *("/", "/ui/*", "/livez", "/healthz", "/readyz"),
        *("/monailabel/auth/", "/monailabel/auth/token"),
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_a_service_without_tokens_may_listen_on_this_machine(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_exposure(host, Settings())
    assert "anyone on this machine may ask" in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "islet.hospital.example", ""])
def test_and_on_no_other_address(host: str, tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=r"islet token new.*ISLET_TOKENS.*127\.0\.0\.1"):
        check_exposure(host, Settings())
    token(tmp_path, Role.READ)
    check_exposure(host, Settings(tokens=tmp_path / "tokens.toml"))


def test_broken_files_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=r"tokens\.toml cannot be read"):
        check_exposure("127.0.0.1", Settings(tokens=tmp_path / "tokens.toml"))
    with pytest.raises(BadParameter, match=r"oidc\.toml cannot be read"):
        check_exposure("127.0.0.1", Settings(oidc=tmp_path / "oidc.toml"))


def test_the_host_that_a_command_was_given() -> None:
    assert asked_host() == "0.0.0.0"
    outer = click.Context(click.Command("serve"))
    outer.params = {"host": "127.0.0.1"}
    with outer, click.Context(click.Command("inner"), parent=outer):
        assert asked_host() == "127.0.0.1"
    outer.params = {"host": None}
    with outer:
        assert asked_host() == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "localhost:80", "LOCALHOST", "[::1]:3000"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_this_machine_is_answered(host: str, method: str) -> None:
    check_local(method, Headers({"host": host}), HERE)
    check_local(method, Headers({"host": host, "origin": f"http://{host}"}), HERE)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "10.0.0.1:3000",
        "127.0.0.1@evil.example",
        "[::",
    ],
)
def test_a_name_that_was_pointed_here_is_not(host: str) -> None:
    with pytest.raises(Forbidden, match="localhost"):
        check_local("GET", Headers({"host": host}), HERE)


def test_two_hosts_are_none() -> None:
    two = Headers(raw=[(b"host", b"localhost"), (b"host", b"evil.example")])
    with pytest.raises(Forbidden):
        check_local("GET", two, HERE)


@pytest.mark.parametrize("server", [None, ("10.0.0.5", 3000), ("/run/islet.sock", None)])
def test_another_machine_is_not_answered(server: tuple[str, int] | None) -> None:
    with pytest.raises(Forbidden, match="this machine"):
        check_local("GET", Headers({"host": "localhost"}), server)


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
def test_nor_is_a_proxy(name: str) -> None:
    with pytest.raises(Forbidden, match="proxy"):
        check_local("GET", Headers({"host": "localhost", name: "x"}), HERE)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://localhost:8080", "http://127.0.0.1:3000", "null", ""],
)
def test_a_page_of_another_site_changes_nothing(origin: str) -> None:
    headers = Headers({"host": "localhost:3000", "origin": origin})
    for method in ("POST", "DELETE", "PUT", "PATCH", "BREW"):
        with pytest.raises(Forbidden, match="own page"):
            check_local(method, headers, HERE)
    check_local("GET", headers, HERE)
