"""``/jobs``: asked for now, fetched later; whose they are; how they end."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.statuses import codes
from tests.serving.api.house import Service, error_of, events_of, unzip

NOBODYS = "0" * 32


def ended(service: Service, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while True:
        body = service.client.get(f"/v1/jobs/{job}").json()
        if body["state"] in ("done", "failed", "cancelled"):
            return body
        assert time.monotonic() < deadline, body
        time.sleep(0.02)


def submit(service: Service, ct: Path, query: str = "", **more: Any) -> dict[str, Any]:
    answer = service.client.post(f"/v1/jobs{query}", content=ct.read_bytes(), **more)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert answer.headers["location"] == body["links"]["self"] == f"/v1/jobs/{body['id']}"
    return body


def test_a_job_is_done_and_its_files_are_fetched(service: Service, ct: Path) -> None:
    asked = submit(service, ct, "?structures=kidney&priority=high&model=flat")
    assert asked["state"] in ("queued", "running", "done")
    assert (asked["kind"], asked["priority"], asked["model"]) == ("segment", "high", "flat")
    job = ended(service, asked["id"])
    assert (job["state"], job["error"], job["eta_s"], job["place"]) == ("done", None, None, None)
    assert job["created"] <= job["started"] <= job["ended"]
    assert job["model_sha256"] == service.store.resolve("flat").sha256
    whole = service.client.get(job["links"]["result"])
    assert whole.headers["content-type"] == "application/zip"
    inside = unzip(whole.content)
    assert {f["name"]: f["bytes"] for f in job["files"]} == {n: len(d) for n, d in inside.items()}
    for file in job["files"]:
        one = service.client.get(file["href"])
        assert (one.status_code, one.headers["content-type"]) == (200, file["type"])
        assert one.content == inside[file["name"]]
        again = service.client.get(file["href"], headers={"If-None-Match": one.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    part = service.client.get(job["links"]["result"], headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])


@pytest.mark.parametrize("name", ["nothing", "..%2f..%2frecord", "%2e%2e/%2e%2e", "result.zip"])
def test_a_files_name_is_looked_up_and_is_no_path(service: Service, ct: Path, name: str) -> None:
    job = ended(service, submit(service, ct)["id"])
    answer = service.client.get(f"/v1/jobs/{job['id']}/result/{name}")
    assert answer.status_code == 404
    assert error_of(answer)["code"] in ("job_not_found", "not_found")


def test_events_tell_the_way_to_the_end(service: Service, ct: Path) -> None:
    job = submit(service, ct)
    headers = {"Last-Event-ID": "whatever"}
    answer = service.client.get(job["links"]["events"], headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events_of(answer.text)
    assert [event.name for event in told[-2:]] == ["progress", "end"]
    assert {event.name for event in told[:-1]} == {"progress"}
    assert told[-1].data == told[-2].data == service.client.get(job["links"]["self"]).json()
    assert told[-1].data["state"] == "done"


def test_a_failed_jobs_error_is_its_results_answer(service: Service) -> None:
    asked = service.client.post("/v1/jobs", content=b"this is no image, whatever is said").json()
    job = ended(service, asked["id"])
    assert (job["state"], job["files"]) == ("failed", [])
    assert "result" not in job["links"]
    for path in ("result", "result/report.json"):
        answer = service.client.get(f"/v1/jobs/{job['id']}/{path}")
        assert answer.status_code == 415
        assert error_of(answer) == job["error"]


def test_a_job_that_waits_has_a_place_and_no_result(idle: Service, ct: Path) -> None:
    first = submit(idle, ct)
    second = submit(idle, ct)
    third = submit(idle, ct, "?priority=high")
    places = [idle.client.get(j["links"]["self"]).json()["place"] for j in (first, second, third)]
    assert places == [2, 3, 1]
    answer = idle.client.get(f"/v1/jobs/{first['id']}/result")
    assert (answer.status_code, error_of(answer)["code"]) == (409, "job_unfinished")


def test_a_full_queue_is_said_before_the_body_is_read(idle: Service, ct: Path) -> None:
    for _ in range(4):
        submit(idle, ct)
    taken = []

    async def body() -> Any:
        taken.append(1)
        yield ct.read_bytes()

    answer = idle.client.post("/v1/jobs", content=body())
    assert (answer.status_code, error_of(answer)["code"]) == (429, "busy")
    assert int(answer.headers["retry-after"]) >= 1
    assert taken == []


def test_a_queue_that_fills_while_a_body_comes_is_full_in_the_end(idle: Service, ct: Path) -> None:
    async def slowly() -> Any:
        yield ct.read_bytes()[:10]
        for _ in range(4):
            await idle.client.request("POST", "/v1/jobs", content=ct.read_bytes())
        yield ct.read_bytes()[10:]

    answer = idle.client.post("/v1/jobs", content=slowly())
    assert (answer.status_code, error_of(answer)["code"]) == (429, "busy")


def test_a_key_gives_the_first_job_however_the_ct_is_wrapped(idle: Service, ct: Path) -> None:
    key = {"Idempotency-Key": "order-7"}
    first = submit(idle, ct, "?structures=kidney", headers=key)
    # Every form has a boundary of its own.
    forms = [
        idle.client.post(
            "/v1/jobs?structures=kidney", files={"ct": ("a", ct.read_bytes())}, headers=again
        ).json()["id"]
        for again in ({"Idempotency-Key": "form"}, {"Idempotency-Key": "form"})
    ]
    assert forms[0] == forms[1] != first["id"]
    assert submit(idle, ct, "?structures=kidney", headers=key)["id"] == first["id"]
    assert submit(idle, ct, "?structures=kidney", headers={**key, "As": "ann"})["id"] != first["id"]
    for query, content in (("?structures=tumor", ct.read_bytes()), ("?structures=kidney", b"x")):
        answer = idle.client.post(f"/v1/jobs{query}", content=content, headers=key)
        assert (answer.status_code, error_of(answer)["code"]) == (409, "key_reused")


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_a_length(idle: Service, ct: Path, key: str) -> None:
    answer = idle.client.post("/v1/jobs", content=ct.read_bytes(), headers={"Idempotency-Key": key})
    assert error_of(answer)["code"] == "bad_parameter"


def test_cancelled_then_forgotten(idle: Service, ct: Path) -> None:
    job = submit(idle, ct)
    cancelled = idle.client.delete(job["links"]["self"])
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    answer = idle.client.get(f"/v1/jobs/{job['id']}/result")
    assert (answer.status_code, error_of(answer)["code"]) == (410, "cancelled")
    assert events_of(idle.client.get(job["links"]["events"]).text)[-1].data["state"] == "cancelled"
    assert idle.client.delete(job["links"]["self"]).status_code == 204
    for method in ("GET", "DELETE"):
        assert idle.client.ask(method, job["links"]["self"]).status_code == 404


def test_jobs_belong_to_who_asked(idle: Service, ct: Path) -> None:
    anns = submit(idle, ct, headers={"As": "ann"})["id"]
    bobs = submit(idle, ct, headers={"As": "bob"})["id"]

    def seen(who: str, query: str = "") -> list[str]:
        listed = idle.client.get(f"/v1/jobs{query}", headers={"As": who}).json()["jobs"]
        return [job["id"] for job in listed]

    assert (seen("ann"), seen("bob"), seen("reader")) == ([anns], [bobs], [])
    assert seen("boss") == [bobs, anns]
    assert seen("boss", "?limit=1") == [bobs]
    assert seen("boss", "?state=done") == []
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/result"),
        ("GET", "/events"),
        ("GET", "/result/report.json"),
    ):
        answer = idle.client.ask(method, f"/v1/jobs/{anns}{path}", headers={"As": "bob"})
        assert (answer.status_code, error_of(answer)["code"]) == (404, "job_not_found")
    assert idle.client.get(f"/v1/jobs/{anns}", headers={"As": "boss"}).status_code == 200


def test_a_reader_may_look_and_not_ask(idle: Service, ct: Path) -> None:
    for method, path in (("POST", "segment"), ("POST", "jobs"), ("DELETE", f"jobs/{NOBODYS}")):
        answer = idle.client.ask(method, f"/v1/{path}", content=b"x", headers={"As": "reader"})
        assert (answer.status_code, error_of(answer)["code"]) == (403, "forbidden")
    assert idle.client.get("/v1/jobs", headers={"As": "reader"}).status_code == 200


@pytest.mark.parametrize("number", [NOBODYS, "x", "0" * 31, "A" * 32, "%00", "0" * 33, "Ä" * 32])
def test_ids_that_are_none_give_404(idle: Service, number: str) -> None:
    for path in ("", "/result", "/events", "/result/report.json"):
        answer = idle.client.get(f"/v1/jobs/{number}{path}")
        assert (answer.status_code, error_of(answer)["code"]) == (404, "job_not_found")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("state=sleeping", "queued, running"),
        ("limit=0", "1 to 1000"),
        ("limit=-1", "1 to 1000"),
        ("limit=99999999999999999999", "1 to 1000"),
        ("limit=٣", "1 to 1000"),
        ("limit=1&limit=2", "once"),
        ("patient=1", "patient"),
    ],
)
def test_bad_filters_are_named(idle: Service, query: str, says: str) -> None:
    answer = idle.client.get(f"/v1/jobs?{query}")
    assert (answer.status_code, error_of(answer)["code"]) == (
        codes()["bad_parameter"],
        "bad_parameter",
    )
    assert says in error_of(answer)["message"]


def test_a_stream_of_events_ends_when_its_client_goes(idle: Service, ct: Path) -> None:
    job = submit(idle, ct)
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and message["body"]:
            inbox.put_nowait({"type": "http.disconnect"})

    async def stream() -> None:
        inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        path = job["links"]["events"]
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [],
        }
        async with asyncio.timeout(5):
            await idle.app(scope, inbox.get, send)

    asyncio.run(stream())
    assert json.loads(sent[1]["body"].split(b"data: ")[1])["state"] == "queued"


def test_a_job_that_is_forgotten_ends_its_events(idle: Service, ct: Path) -> None:
    job = submit(idle, ct)

    async def both() -> httpx.Response:
        listening = asyncio.create_task(idle.client.request("GET", job["links"]["events"]))
        await asyncio.sleep(0.1)
        idle.jobs.delete(job["id"])
        return await listening

    told = events_of(asyncio.run(both()).text)
    assert told[-1].name == "end"
    assert told[-1].data["error"]["code"] == "job_not_found"
