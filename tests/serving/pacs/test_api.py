"""``/v1/dicomweb``: what is taken, and what is refused before a job is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.store import Store
from serving.jobs.jobs import Jobs
from serving.settings import Settings
from tests.serving.api.house import Service

GOOD = {"server": "main", "study": "1.2.3"}


@pytest.fixture
def service(store: Store, tmp_path: Path) -> Iterator[Service]:
    """The interface over jobs that nobody does, with two servers; two jobs may wait."""
    path = tmp_path / "pacs.toml"
    path.write_text(
        '[servers.main]\nurl = "http://127.0.0.1:1"\n[servers.other]\nurl = "http://127.0.0.1:2"\n'
    )
    settings = Settings(spool=tmp_path / "spool", queue=2, pacs=path)
    jobs = Jobs(settings)
    yield Service(settings, store, jobs)
    jobs.close()


@pytest.fixture
def client(service: Service) -> Any:
    return service.client


def refused(client: Any, status: int, code: str, **body: Any) -> dict:
    answer = client.post("/v1/dicomweb", content=json.dumps(body))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    error: dict = answer.json()["error"]
    return error


def test_a_request_becomes_a_job_with_dicom_outputs(client: Any, service: Service) -> None:
    answer = client.post("/v1/dicomweb", json=GOOD | {"store": True, "structures": "kidney"})
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{body['id']}"
    assert (body["kind"], body["state"], body["model"]) == ("dicomweb", "queued", "starter")
    asked = service.jobs.get(body["id"]).request
    assert (asked["store"], asked["series"], asked["rules"]) == ("main", None, True)
    assert asked["options"]["outputs"] == ["seg", "rtstruct", "sr"]
    assert asked["options"]["masks"] == ["kidney"]


@pytest.mark.parametrize(
    ("given", "where"), [({}, None), ({"store": False}, None), ({"store": "other"}, "other")]
)
def test_results_are_stored_where_the_request_says(
    client: Any, service: Service, given: dict, where: str | None
) -> None:
    body = client.post("/v1/dicomweb", json=GOOD | given).json()
    assert service.jobs.get(body["id"]).request["store"] == where


def test_a_named_series_passes_the_rules_only_where_asked(client: Any, service: Service) -> None:
    for rules in (False, True):
        given = {"series": "1.2.4"} | ({"rules": True} if rules else {})
        body = client.post("/v1/dicomweb", json=GOOD | given).json()
        asked = service.jobs.get(body["id"]).request
        assert (asked["series"], asked["rules"]) == ("1.2.4", rules)


def test_a_key_makes_a_repeated_request_one_job(client: Any) -> None:
    key = {"Idempotency-Key": "1.2.4-20"}
    first = client.post("/v1/dicomweb", json=GOOD, headers=key)
    again = client.post("/v1/dicomweb", json=GOOD, headers=key)
    assert first.json()["id"] == again.json()["id"]
    other = client.post("/v1/dicomweb", json=GOOD | {"study": "1.2.5"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "key_reused")


def test_only_configured_servers_may_be_named(client: Any) -> None:
    for name in ("http://127.0.0.1:1", "elsewhere", ""):
        error = refused(client, 403, "server_not_allowed", server=name, study="1.2.3")
        assert error["details"]["known"] == ["main", "other"]
    refused(client, 403, "server_not_allowed", **GOOD, store="elsewhere")


@pytest.mark.parametrize(
    "wrong",
    [
        {"study": "1.2/../../3"},
        {"study": "1." * 40 + "1"},
        {"study": 3},
        {"series": "x"},
        {"store": 1},
        {"store": True, "outputs": ["nifti"]},
        {"rules": "yes"},
        {"rules": False},
        {"outputs": "png"},
        {"structures": ["kidney", 3]},
        {"structures": "brain"},
        {"priority": "urgent"},
        {"url": "http://127.0.0.1"},
        {"server": "\ud800"},
        {"model": "\ud800"},
    ],
)
def test_a_wrong_field_is_refused(client: Any, service: Service, wrong: dict) -> None:
    refused(client, 400, "bad_parameter", **(GOOD | wrong))
    assert service.jobs.list() == []


def test_fields_that_are_missing_an_unknown_model_and_a_full_queue(client: Any) -> None:
    refused(client, 400, "bad_parameter", server="main")
    refused(client, 400, "bad_parameter", study="1.2.3")
    refused(client, 404, "model_not_found", **GOOD, model="nobody")
    for _ in range(2):
        assert client.post("/v1/dicomweb", json=GOOD).status_code == 202
    answer = client.post("/v1/dicomweb", json=GOOD)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")
    assert int(answer.headers["Retry-After"]) > 0


def test_names_of_the_servers_and_nothing_else_of_them(client: Any) -> None:
    answer = client.get("/v1/dicomweb")
    assert (answer.status_code, answer.json()) == (200, {"servers": ["main", "other"]})
    assert "127.0.0.1" not in answer.text


def test_a_reader_may_not_ask(client: Any) -> None:
    answer = client.post("/v1/dicomweb", json=GOOD, headers={"As": "reader"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert client.get("/v1/dicomweb", headers={"As": "reader"}).status_code == 200
