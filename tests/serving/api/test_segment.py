"""``POST /segment``: every answer and every refusal of the request itself."""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imaging.limits import Limits
from models.store import Store
from serving.engines import Engines
from serving.options import Options
from serving.segment import files, segment
from serving.settings import Settings
from serving.statuses import codes
from tests.serving.api.house import LIMIT, Service, error_of, unzip
from tests.serving.tiny_model import publish


def expected(store: Store, ct: Path, **options: Any) -> dict[str, bytes]:
    """What the pipeline gives when it is called directly."""
    engines = Engines(store, 1, 1024, 60)
    return dict(files(segment(ct, Options(**options), engines)))


def same(got: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    """Equal files; the reports differ in what the steps took alone."""
    assert list(got) == list(wanted)
    reports = [json.loads(d.pop("report.json")) for d in (got, wanted)]
    assert got == wanted
    for report in reports:
        del report["seconds"]
    assert reports[0] == reports[1]


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain"])
def test_the_command_lines_bytes_come_back_for_a_raw_body(
    service: Service, ct: Path, kind: str
) -> None:
    answer = service.client.post(
        "/v1/segment", content=ct.read_bytes(), headers={"Content-Type": kind}
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    same(unzip(answer.content), expected(service.store, ct))


@pytest.mark.parametrize("kind", ["multipart/related", "multipart/mixed"])
def test_the_files_come_as_the_parts_of_a_body(service: Service, ct: Path, kind: str) -> None:
    accept = f"text/html;q=0.9, application/zip;q=0.5, {kind};q=0.8"
    answer = service.client.post(
        "/v1/segment?structures=kidney", content=ct.read_bytes(), headers={"Accept": accept}
    )
    head = b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n"
    message = email.message_from_bytes(head + answer.content, policy=email.policy.HTTP)
    assert message.get_content_type() == kind
    parts = list(message.iter_parts())
    got = {str(part.get_filename()): part.get_payload(decode=True) for part in parts}
    types = {part.get_filename(): part.get_content_type() for part in parts}
    assert types["labels.nii.gz"] == "application/gzip"
    assert types["report.json"] == "application/json"
    assert [int(part["content-length"]) for part in parts] == [len(data) for data in got.values()]
    same(got, expected(service.store, ct, masks=("kidney",)))


def test_a_form_brings_the_ct_and_its_parameters(service: Service, ct: Path) -> None:
    answer = service.client.post(
        "/v1/segment",
        files={"anything": ("../../Doe^John.nii.gz", ct.read_bytes())},
        data={"structures": "kidney", "model": "flat"},
    )
    assert answer.status_code == 200, answer.text
    got = unzip(answer.content)
    assert {"labels.nii.gz", "kidney.nii.gz", "report.json"} <= set(got)
    assert "pancreas.nii.gz" not in got
    assert json.loads(got["report.json"])["model"]["reference"] == "flat@1"
    assert b"Doe" not in answer.content


def test_query_and_form_are_the_same_parameters(service: Service, ct: Path) -> None:
    answer = service.client.post(
        "/v1/segment?structures=kidney&outputs=report",
        files={"ct": ("a", ct.read_bytes())},
        data={"structures": ["tumor,pancreas"]},
    )
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()["masks"]) == ["kidney", "tumor", "pancreas"]


def test_what_was_answered_is_kept_no_second_time(service: Service, ct: Path) -> None:
    before = service.client.get("/v1/jobs").json()
    assert service.client.post("/v1/segment", content=ct.read_bytes()).status_code == 200
    assert service.client.get("/v1/jobs").json() == before


@pytest.mark.parametrize(
    ("query", "code", "says"),
    [
        ("struktures=kidney", "bad_parameter", "struktures"),
        ("structures=spine", "bad_parameter", "spine"),
        ("structures=liver", "bad_parameter", "pancreas_tumor"),
        ("outputs=png", "bad_parameter", "nifti, "),
        ("device=tpu", "bad_parameter", "auto, cpu, cuda"),
        ("model=a&model=b", "bad_parameter", "once"),
        ("priority=high", "bad_parameter", "/v1/jobs"),
        ("model=unknown", "model_not_found", "starter@live"),
        ("model=../../etc", "model_not_found", "etc"),
        ("model=starter@9", "model_not_found", "starter@1"),
    ],
)
def test_bad_parameters_are_named_before_the_body_is_read(
    service: Service, query: str, code: str, says: str
) -> None:
    taken = []

    async def body() -> AsyncIterator[bytes]:
        taken.append(1)
        yield b"x"

    answer = service.client.post(f"/v1/segment?{query}", content=body())
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (codes()[code], code)
    assert says in error["message"]
    assert taken == []


def test_a_forms_own_parameters_are_checked_too(service: Service, ct: Path) -> None:
    sent = {"ct": ("a", ct.read_bytes())}
    for data, code in (({"model": "unknown"}, "model_not_found"), ({"x": "1"}, "bad_parameter")):
        answer = service.client.post("/v1/segment", files=sent, data=data)
        assert error_of(answer)["code"] == code


def test_a_dicom_output_of_a_nifti_is_refused(service: Service, ct: Path) -> None:
    answer = service.client.post("/v1/segment?outputs=seg", content=ct.read_bytes())
    assert (answer.status_code, error_of(answer)["code"]) == (422, "not_dicom")


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


def test_more_files_than_the_limit_are_refused(idle: Service) -> None:
    settings = Settings(spool=idle.settings.spool, limits=Limits(max_files=3))
    service = Service(settings, idle.store, idle.jobs)
    answer = service.client.post("/v1/segment", files=[("ct", ("x", b"1"))] * 4)
    assert (answer.status_code, error_of(answer)["details"]) == (413, {"limit": 3})


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


def test_a_full_disk_is_said_and_nothing_is_left(
    idle: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        # The real device that is always full.
        if path.name == "body":
            return real(Path("/dev/full"), mode, 0)
        return real(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    answer = idle.client.post("/v1/jobs", content=b"x" * 1000)
    assert (answer.status_code, error_of(answer)["code"]) == (507, "disk_full")


def test_an_alias_that_moves_is_followed_at_once(
    service: Service, ct: Path, tmp_path: Path
) -> None:
    def reference() -> str:
        answer = service.client.post(
            "/v1/segment?outputs=report&model=moving", content=ct.read_bytes()
        )
        return answer.json()["model"]["reference"]

    publish(service.store, tmp_path, "moving")
    assert reference() == "moving@1"
    publish(service.store, tmp_path, "moving", centres={"background": -100.0, "kidney": 60.0})
    assert reference() == "moving@2"
    service.store.point("moving", "live", 1)
    assert reference() == "moving@1"
