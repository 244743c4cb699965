"""The HTTP interface, in process: every answer, every refusal, one shape."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import uuid
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.routing import Mount

from imaging.limits import Limits
from models.store import Store
from serving import api
from serving.api import ROUTES, Desk, Door
from serving.engine import Engines
from serving.metrics import Metrics
from serving.options import Options
from serving.segment import files, segment
from serving.settings import Settings
from serving.statuses import codes
from tests.serving.tiny_model import publish

LIMIT = 1_000_000


class Client:
    """Sends requests straight into the application."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def get(self, url: str) -> httpx.Response:
        return asyncio.run(self._request("GET", url))

    def post(self, url: str, **body: Any) -> httpx.Response:
        return asyncio.run(self._request("POST", url, **body))

    async def _request(self, method: str, url: str, **body: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://islet") as client:
            return await client.request(method, url, **body)


class Service:
    """The mounted interface with a client, and the folder its temporary files go to."""

    def __init__(self, store: Store, temporary: Path, settings: Settings) -> None:
        self.registry = CollectorRegistry()
        self.door = Door()
        self.door.desk = Desk(settings, store, Metrics(self.registry))
        self.app = Starlette(routes=[Mount("/v1", self.door)])
        self.client = Client(self.app)
        self.temporary = temporary

    def leftovers(self) -> list[Path]:
        return list(self.temporary.glob("islet-*"))


@pytest.fixture
def service(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    made = Service(store, temporary, Settings(limits=Limits(max_bytes=LIMIT), waiting=1))
    yield made
    assert made.leftovers() == []


def unzip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def error_of(response: Any) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "details"}
    return body["error"]


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/gzip", "text/plain"])
def test_the_command_lines_bytes_come_back_for_a_raw_body(
    service: Service, store: Store, ct: Path, kind: str
) -> None:
    answer = service.client.post(
        "/v1/segment", content=ct.read_bytes(), headers={"Content-Type": kind}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    expected = dict(files(segment(ct, Options(), Engines(store))))
    got = unzip(answer.content)
    assert list(got) == list(expected)
    reports = [json.loads(d.pop("report.json")) for d in (got, expected)]
    assert got == expected
    for report in reports:
        del report["seconds"]
    assert reports[0] == reports[1]


def test_a_form_brings_the_ct_and_its_parameters(service: Service, ct: Path) -> None:
    answer = service.client.post(
        "/v1/segment",
        files={"anything": ("../../Doe^John.nii.gz", ct.read_bytes())},
        data={"structures": "kidney", "model": "flat"},
    )
    assert answer.status_code == 200
    got = unzip(answer.content)
    assert set(got) == {"labels.nii.gz", "kidney.nii.gz", "report.json"}
    assert json.loads(got["report.json"])["model"]["reference"] == "flat@1"
    assert b"Doe" not in answer.content


def test_query_and_form_are_the_same_parameters(service: Service, ct: Path) -> None:
    answer = service.client.post(
        "/v1/segment?structures=kidney&output=json",
        files={"ct": ("a", ct.read_bytes())},
        data={"structures": ["tumor,pancreas"]},
    )
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()["masks"]) == ["kidney", "tumor", "pancreas"]


@pytest.mark.parametrize(
    ("query", "code", "says"),
    [
        ("struktures=kidney", "bad_parameter", "struktures"),
        ("structures=spine", "bad_parameter", "spine"),
        ("structures=liver", "bad_parameter", "pancreas_tumor"),
        ("output=dicom", "bad_parameter", "nifti, json"),
        ("device=tpu", "bad_parameter", "auto, cpu, cuda"),
        ("model=a&model=b", "bad_parameter", "once"),
        ("model=unknown", "model_not_found", "starter@live"),
        ("model=../../etc", "model_not_found", "etc"),
        ("model=starter@9", "model_not_found", "starter@1"),
    ],
)
def test_bad_parameters_are_named(
    service: Service, ct: Path, query: str, code: str, says: str
) -> None:
    answer = service.client.post(f"/v1/segment?{query}", content=ct.read_bytes())
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (codes()[code], code)
    assert says in error["message"]


BROKEN = {
    "empty": (b"", 422, "empty_input"),
    "words": (b"this is no image at all, whatever the sender says", 415, "unsupported_format"),
    "gzip of nothing": (b"\x1f\x8b" + b"\0" * 30, 422, "truncated_file"),
    "zip that breaks off": (b"PK\x03\x04" + b"\0" * 40, 422, "truncated_file"),
    "dicom without a data set": (b"\0" * 128 + b"DICM" + b"\0" * 20, 422, None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_their_code(service: Service, name: str) -> None:
    data, status, code = BROKEN[name]
    for answer in (
        service.client.post("/v1/segment", content=data),
        service.client.post("/v1/segment", files={"ct": ("x.nii.gz", data)}),
    ):
        error = error_of(answer)
        assert answer.status_code == status, error
        assert code in (None, error["code"])


def test_a_form_without_a_file_with_a_long_field_or_broken_off(service: Service) -> None:
    post = service.client.post
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="ct"; filename="x"\r\n\r\nabc'
    cases = [
        (post("/v1/segment", files={"ct": ("", b"")}), "empty_input"),
        (post("/v1/segment", files={"ct": (None, b"x" * 9000)}), "bad_parameter"),
        (post("/v1/segment", files=[("a", (None, b"x"))] * 65), "bad_parameter"),
        (post("/v1/segment", content=part, headers=form), "truncated_file"),
        (post("/v1/segment", content=b"nothing", headers=form), "bad_parameter"),
        (
            post("/v1/segment", content=part, headers={"Content-Type": "multipart/form-data"}),
            "bad_parameter",
        ),
    ]
    for answer, code in cases:
        error = error_of(answer)
        assert error["code"] == code, error
        assert answer.status_code == codes()[code]


def test_a_declared_length_over_the_limit_is_refused_unread(service: Service) -> None:
    answer = service.client.post("/v1/segment", content=b"x" * (LIMIT + 1))
    assert answer.status_code == 413
    assert error_of(answer)["details"]["limit"] == LIMIT


def test_an_undeclared_length_is_cut_at_the_limit(service: Service) -> None:
    taken = []

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            taken.append(1)
            yield b"x" * 50_000

    answer = service.client.post("/v1/segment", content=chunks())
    assert (answer.status_code, error_of(answer)["code"]) == (413, "input_too_large")
    assert len(taken) == LIMIT // 50_000 + 1


def test_more_files_than_the_limit_are_refused(store: Store, tmp_path: Path) -> None:
    service = Service(store, tmp_path, Settings(limits=Limits(max_files=3)))
    answer = service.client.post("/v1/segment", files=[("ct", ("x", b"1"))] * 4)
    assert (answer.status_code, error_of(answer)["details"]) == (413, {"limit": 3})


def test_unknown_paths_and_methods_have_the_same_shape(service: Service) -> None:
    missing = service.client.get("/v1/nothing")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    wrong = service.client.get("/v1/segment")
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_a_failure_tells_the_client_an_id_and_the_log_no_text(
    service: Service, ct: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = uuid.uuid4().hex

    def fail(*_: Any) -> None:
        raise RuntimeError(secret)

    monkeypatch.setattr(api, "segment", fail)
    with caplog.at_level(logging.ERROR, "islet.serving"):
        answer = service.client.post("/v1/segment", content=ct.read_bytes())
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (500, "internal_error")
    assert error["details"]["id"] in caplog.text
    assert "RuntimeError" in caplog.text
    assert secret not in caplog.text + answer.text


def test_models_are_listed_and_a_broken_one_hides_no_other(
    service: Service, store: Store, tmp_path: Path
) -> None:
    broken = publish(store, tmp_path, "broken")
    broken.path.write_bytes(b"no model")
    body = service.client.get("/v1/models").json()
    listed = {m["name"]: m for m in body["models"]}
    assert body["default"] == "starter"
    assert set(listed) == {"broken", "flat", "starter"}
    assert listed["broken"]["versions"][0]["error"]["code"] == "corrupt_model"
    version = listed["starter"]["versions"][0]
    assert listed["starter"]["aliases"] == {"live": 1}
    assert version["manifest"]["outputs"] == ["pancreas", "pancreas_tumor", "kidney"]
    assert {"pancreas", "tumor", "kidney"} <= set(version["masks"])
    assert "liver" not in version["masks"]
    answer = service.client.post("/v1/segment?model=broken", content=b"x")
    assert (answer.status_code, error_of(answer)["code"]) == (500, "corrupt_model")


def test_an_alias_that_moves_is_followed_at_once(
    service: Service, store: Store, ct: Path, tmp_path: Path
) -> None:
    def reference() -> str:
        answer = service.client.post("/v1/segment?output=json", content=ct.read_bytes())
        return answer.json()["model"]["reference"]

    assert reference() == "starter@1"
    publish(store, tmp_path, centres={"background": -100.0, "kidney": 60.0, "pancreas": 0.0})
    assert reference() == "starter@2"
    store.point("starter", "live", 1)
    assert reference() == "starter@1"


def test_outcomes_and_seconds_are_counted(service: Service, ct: Path) -> None:
    service.client.post("/v1/segment", content=ct.read_bytes())
    service.client.post("/v1/segment", content=b"")
    service.client.get("/v1/nothing")
    shown = generate_latest(service.registry).decode()
    assert 'islet_requests_total{endpoint="segment",outcome="ok"} 1.0' in shown
    assert 'islet_requests_total{endpoint="segment",outcome="empty_input"} 1.0' in shown
    assert 'islet_requests_total{endpoint="other",outcome="not_found"} 1.0' in shown
    assert 'islet_step_seconds_count{step="network"} 1.0' in shown


def test_the_openapi_document_is_valid_and_true(service: Service) -> None:
    document = service.client.get("/v1/openapi.json").json()
    validate(document)
    routed = {r.path: {m.lower() for m in r.methods or () if m != "HEAD"} for r in ROUTES}
    assert {path: set(item) for path, item in document["paths"].items()} == routed
    answers = document["paths"]["/segment"]["post"]["responses"]
    assert set(answers) == {"200", *map(str, set(codes().values()) - {405})}
    named = " ".join(a["description"] for a in answers.values())
    for code in set(codes()) - {"not_found", "method_not_allowed"}:
        assert code in named


def test_reports_are_what_the_openapi_document_says(service: Service, ct: Path) -> None:
    from jsonschema import Draft202012Validator

    document = service.client.get("/v1/openapi.json").json()
    report = service.client.post("/v1/segment?output=json", content=ct.read_bytes()).json()
    listing = service.client.get("/v1/models").json()
    refusal = service.client.get("/v1/nothing").json()
    for name, value in (("Report", report), ("Models", listing), ("Error", refusal)):
        whole = document | {"$ref": f"#/components/schemas/{name}"}
        Draft202012Validator(whole).validate(value)


def test_the_documentation_lists_every_code_under_its_status() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    table = text.split("## Errors")[1].split("## Settings")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    written = {code: int(row[1]) for row in rows[1:] for code in re.findall(r"`([a-z_]+)`", row[2])}
    assert written == codes()
