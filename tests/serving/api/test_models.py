"""Models over HTTP: seen, taken in, pointed at, removed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.onnxfile import embed
from models.store import Store
from serving.api.door import Door
from serving.api.models import ENDPOINTS
from serving.guard.identity import Role
from serving.jobs.jobs import Jobs
from serving.settings import Settings
from tests.models.foreign_graphs import conv
from tests.models.manifests import manifest
from tests.serving.api.house import Service, error_of
from tests.serving.tiny_model import CENTRES, publish


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the first run: it has tests of its own, and takes a process each time."""
    monkeypatch.setattr("models.door.attempt", lambda path: None)


def _bare() -> bytes:
    return bytes(conv().SerializeToString())


def _own(folder: Path, **fields: Any) -> bytes:
    embed(conv(), manifest(**fields), folder / "own.onnx")
    return (folder / "own.onnx").read_bytes()


def _form(**parts: Any) -> dict[str, Any]:
    return {"files": parts}


def _published(service: Service) -> dict[str, dict[str, int]]:
    return {name: service.store.aliases(name) for name in service.store.names()}


SHIPPED = {"flat": {"live": 1}, "starter": {"live": 1}}


def test_models_are_listed_with_what_they_can_find(idle: Service) -> None:
    body = idle.client.get("/v1/models").json()
    assert body["default"] == "starter"
    assert [model["name"] for model in body["models"]] == ["flat", "starter"]
    one = idle.client.get("/v1/models/starter").json()
    assert one == body["models"][1]
    version = one["versions"][0]
    assert (one["aliases"], version["reference"]) == ({"live": 1}, "starter@1")
    assert version["sha256"] == idle.store.resolve("starter").sha256
    assert version["manifest"]["outputs"] == list(CENTRES)[1:]
    assert {"pancreas", "tumor", "kidney"} <= set(version["masks"])
    assert "liver" not in version["masks"]


def test_a_broken_file_hides_no_other(idle: Service, tmp_path: Path) -> None:
    publish(idle.store, tmp_path).path.write_bytes(b"broken")
    starter = idle.client.get("/v1/models/starter").json()
    assert [v.get("error", {}).get("code") for v in starter["versions"]] == [None, "corrupt_model"]


@pytest.mark.parametrize("name", ["monet", "%2e%2e", "starter@1", "x" * 200])
def test_a_model_that_is_not_there_is_not_found(idle: Service, name: str) -> None:
    answer = idle.client.get(f"/v1/models/{name}")
    assert answer.status_code == 404
    assert error_of(answer)["code"] in ("model_not_found", "not_found")


def test_a_file_that_describes_itself_is_a_whole_body(idle: Service, tmp_path: Path) -> None:
    data = _own(tmp_path)
    answer = idle.client.post("/v1/models?alias=global,site-2&alias=live", content=data)
    body = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, "/v1/models/tiny")
    assert body["reference"] == "tiny@1"
    assert body["sha256"] == hashlib.sha256(data).hexdigest()
    assert body["model"] == idle.client.get("/v1/models/tiny").json()
    assert body["model"]["aliases"] == {"global": 1, "live": 1, "site-2": 1}


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("how", ["files", "field", "other names"])
def test_a_model_from_elsewhere_comes_with_its_manifest(idle: Service, how: str) -> None:
    file = ("m.onnx", _bare())
    text = manifest().to_json()
    sent: dict[str, Any] = {
        "files": _form(model=file, manifest=("m.json", "\n " + text)),
        "field": _form(model=file) | {"data": {"manifest": text, "alias": "live"}},
        "other names": _form(b=("x", text), a=file),
    }[how]
    answer = idle.client.post("/v1/models", **sent)
    assert answer.status_code == 201, answer.text
    assert answer.json()["model"]["versions"][0]["manifest"]["name"] == "tiny"
    assert _published(idle)["tiny"] == ({"live": 1} if how == "field" else {})


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no model": ({"content": b"a CT"}, 422, "model_refused"),
    "no manifest": ({"content": _bare()}, 422, "model_refused"),
    "no body": ({"content": b""}, 422, "empty_input"),
    "a bad manifest": (
        _form(model=("m", _bare()), manifest=("j", b"{}")),
        422,
        "model_refused",
    ),
    "two models": (
        _form(one=("m", _bare()), two=("n", _bare())) | {"data": {"manifest": "{}"}},
        400,
        "bad_parameter",
    ),
    "two manifests": (
        _form(one=("m", _bare()), two=("j", b"{}")) | {"data": {"manifest": "{}"}},
        400,
        "bad_parameter",
    ),
    "no file in the form": (_form(one=("j", b"{}")), 422, "empty_input"),
    "three files": (_form(a=("a", b"a"), b=("b", b"b"), c=("c", b"c")), 413, "input_too_large"),
    "an unknown field": (
        _form(model=("m", _bare())) | {"data": {"version": "3"}},
        400,
        "bad_parameter",
    ),
    "an unknown parameter": ({"content": _bare(), "params": {"x": "1"}}, 400, "bad_parameter"),
    "no alias": (
        _form(model=("m", _bare()), manifest=("j", manifest().to_json()))
        | {"params": {"alias": "Not a word"}},
        400,
        "bad_parameter",
    ),
}


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize(("sent", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_changes_nothing(
    idle: Service, sent: dict[str, Any], status: int, code: str
) -> None:
    answer = idle.client.post("/v1/models", **sent)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert _published(idle) == SHIPPED


@pytest.fixture
def small(store: Store, tmp_path: Path) -> Iterator[Service]:
    """A service whose workers hold models of 20 MB together, so files of less than 2 MB."""
    settings = Settings(spool=tmp_path / "spool", model_memory_mb=20)
    jobs = Jobs(settings)
    yield Service(settings, store, jobs)
    jobs.close()


@pytest.mark.parametrize("size", [2 * 2**20, 4 * 2**20])
def test_a_model_that_no_worker_would_load_is_too_large(small: Service, size: int) -> None:
    answer = small.client.post("/v1/models", content=bytes(size))
    assert (answer.status_code, error_of(answer)["code"]) == (413, "input_too_large")


def _put(service: Service, path: str, **more: Any) -> httpx.Response:
    return service.client.ask("PUT", f"/v1/models/{path}", **more)


def test_an_alias_moves_goes_and_lets_go_of_its_version(idle: Service, tmp_path: Path) -> None:
    publish(idle.store, tmp_path, centres={"background": -100.0, "liver": 60.0})
    moved = _put(idle, "starter/aliases/site-2", json={"version": 1})
    assert (moved.status_code, moved.json()["aliases"]) == (200, {"live": 2, "site-2": 1})
    held = idle.client.delete("/v1/models/starter/versions/1")
    assert (held.status_code, error_of(held)["details"]["aliases"]) == (400, ["site-2"])
    assert idle.client.delete("/v1/models/starter/aliases/site-2").status_code == 204
    assert idle.client.delete("/v1/models/starter/versions/1").status_code == 204
    assert idle.store.versions("starter") == [2]
    assert idle.client.delete("/v1/models/starter/versions/1").status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("starter/aliases/live", {"version": 9}, 404),
        ("monet/aliases/live", {"version": 1}, 404),
        ("starter/aliases/Live", {"version": 1}, 400),
        ("starter/aliases/live", {"version": "1"}, 400),
        ("starter/aliases/live", {"version": True}, 400),
        ("starter/aliases/live", {"version": 10**30}, 404),
        ("starter/aliases/live", {"version": -1}, 404),
        ("starter/aliases/live", {}, 400),
        ("starter/aliases/live", {"version": 1, "to": 2}, 400),
        ("starter/aliases/live", [1], 400),
    ],
)
def test_an_alias_that_cannot_move_stays(idle: Service, path: str, body: Any, status: int) -> None:
    assert _put(idle, path, json=body).status_code == status
    assert _published(idle) == SHIPPED


@pytest.mark.parametrize("path", ["aliases/gone", "versions/2", "versions/live", "versions/٣"])
def test_what_is_not_there_is_not_removed(idle: Service, path: str) -> None:
    answer = idle.client.delete(f"/v1/models/starter/{path}")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
    assert _published(idle) == SHIPPED


def test_only_an_admin_changes_models(idle: Service, tmp_path: Path) -> None:
    assert {e.role for e in ENDPOINTS if e.method != "GET"} == {Role.ADMIN}
    assert Door(ENDPOINTS).endpoints == ENDPOINTS
    for who in ("reader", "ann"):
        said = {"headers": {"As": who}}
        assert idle.client.get("/v1/models", **said).status_code == 200
        for answer in (
            idle.client.post("/v1/models", content=_own(tmp_path), **said),
            _put(idle, "starter/aliases/live", json={"version": 1}, **said),
            idle.client.delete("/v1/models/starter/aliases/live", **said),
            idle.client.delete("/v1/models/starter/versions/1", **said),
        ):
            assert (answer.status_code, error_of(answer)["code"]) == (403, "forbidden")
    assert _published(idle) == SHIPPED
