"""Routes, roles, the one error shape, and the document that says so."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.api.door import ENDPOINTS, Door
from serving.api.endpoint import AUDIT_KEY, Endpoint, json_object
from serving.guard.identity import LOCAL, SCOPE_KEY, Role
from serving.statuses import codes
from tests.serving.api.house import Service, error_of

DOCS = Path(__file__).parents[3] / "docs" / "api.md"


def test_unknown_paths_and_methods_have_the_same_shape(idle: Service) -> None:
    missing = idle.client.get("/v1/nothing")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    for path, allowed in (("segment", {"POST"}), ("jobs", {"GET", "HEAD", "POST"})):
        wrong = idle.client.ask("PATCH", f"/v1/{path}")
        assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
        assert set(wrong.headers["allow"].split(", ")) == allowed
    assert idle.client.ask("HEAD", "/v1/jobs").status_code == 200


def test_a_failure_tells_the_client_an_id_and_the_log_no_text(
    idle: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = uuid.uuid4().hex

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(secret)

    monkeypatch.setattr(idle.jobs, "list", fail)
    with caplog.at_level(logging.ERROR, "islet.serving"):
        answer = idle.client.get("/v1/jobs")
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (500, "internal_error")
    assert error["details"]["id"] in caplog.text
    assert "RuntimeError" in caplog.text
    assert secret not in caplog.text + answer.text


def test_every_endpoint_needs_a_role_and_has_its_own_name() -> None:
    names = [endpoint.name for endpoint in ENDPOINTS]
    assert len(set(names)) == len(names)
    assert all(endpoint.role in Role for endpoint in ENDPOINTS)
    changing = [e for e in ENDPOINTS if e.method != "GET"]
    assert all(e.role in (Role.SEGMENT, Role.ADMIN) for e in changing)


def test_facts_are_left_for_the_audit_log(idle: Service) -> None:
    number = "ab" * 16
    path = f"/v1/jobs/{number}/result/labels.nii.gz"
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "root_path": "/v1"}
    scope |= {"headers": [], "query_string": b"", SCOPE_KEY: LOCAL, AUDIT_KEY: {}}

    async def nothing() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        return

    asyncio.run(idle.door(scope, nothing, send))
    assert scope[AUDIT_KEY] == {
        "route": "/v1/jobs/{id}/result/{name}",
        "job": number,
        "code": "job_not_found",
    }


def test_the_openapi_document_is_valid_and_true(idle: Service) -> None:
    document = idle.client.get("/v1/openapi.json").json()
    validate(document)
    routed: dict[str, set[str]] = {}
    for endpoint in ENDPOINTS:
        routed.setdefault(endpoint.path, set()).add(endpoint.method.lower())
    assert {path: set(item) for path, item in document["paths"].items()} == routed
    for endpoint in ENDPOINTS:
        operation = document["paths"][endpoint.path][endpoint.method.lower()]
        assert {"401", "403", "500"} <= set(operation["responses"]), endpoint.name
        assert operation["x-role"] == endpoint.role
    named = str(document["paths"])
    for code in set(codes()) - {"not_found", "method_not_allowed"}:
        assert code in named


def test_the_documentation_lists_every_path() -> None:
    listed = set(re.findall(r"^\| `([A-Z]+) /v1(/[^`]*)` \|", DOCS.read_text(), re.MULTILINE))
    assert listed == {(e.method, e.path) for e in ENDPOINTS}


def test_the_documentation_lists_every_code_under_its_status() -> None:
    table = DOCS.read_text().split("## Errors")[1].split("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    written = {code: int(row[1]) for row in rows[1:] for code in re.findall(r"`([a-z_]+)`", row[2])}
    assert written == codes()


def test_answers_are_what_the_document_says(service: Service, ct: Path) -> None:
    document = service.client.get("/v1/openapi.json").json()
    post = service.client.post
    job = post("/v1/jobs", content=ct.read_bytes()).json()
    values = {
        "Report": post("/v1/segment?outputs=report", content=ct.read_bytes()).json(),
        "Models": service.client.get("/v1/models").json(),
        "Error": service.client.get("/v1/nothing").json(),
        "Job": job,
        "Jobs": service.client.get("/v1/jobs").json(),
    }
    for name, value in values.items():
        whole = document | {"$ref": f"#/components/schemas/{name}"}
        Draft202012Validator(whole).validate(value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "no JSON"),
        (b"[" * 60_000, "no JSON"),
        (b"\xff", "no JSON"),
        (b"[]", "no object"),
        (b'{"b": 1}', "there are a"),
        (b'{"\\ud800": 1}', "there are a"),
        (b'{"a": "' + b"x" * 70_000 + b'"}', "65536"),
    ],
)
def test_small_bodies_are_json_objects_of_known_fields(
    idle: Service, body: bytes, says: str
) -> None:
    async def post_it(request: Request) -> Response:
        return JSONResponse(await json_object(request, ("a",)))

    operation = {"operationId": "it", "responses": {}}
    door = Door((Endpoint("POST", "/it", post_it, Role.READ, operation),))
    door.desk = idle.door.desk
    idle.door.app = door.app
    assert idle.client.post("/v1/it", content=b'{"a": 1}').json() == {"a": 1}
    answer = idle.client.post("/v1/it", content=body)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_parameter")
    assert says in error_of(answer)["message"]
