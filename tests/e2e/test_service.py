"""The real service as a process: health, metrics, refusals on the wire, equal bytes, its end."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from federation import message
from federation.site import Site
from imaging.errors import ServiceFailed
from imaging.writers.nifti import write_nifti
from models.store import Store
from serving import commands
from serving.process import free_port, running, serve_command, serve_environment
from tests.federation.sites import homes, job
from tests.serving.tiny_model import CENTRES, boxes_ct, publish

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LIMIT_MB = 2


@dataclass(frozen=True)
class Served:
    port: int
    store: Store
    ct: Path
    spool: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)

    def post(self, path: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.post(url, content=self.ct.read_bytes(), timeout=60)


@contextlib.contextmanager
def service(folder: Path, **environment: str) -> Iterator[Served]:
    """A running service over a store with ``starter``, its spool in ``folder``."""
    store = Store(folder / "store", behind=())
    publish(store, folder)
    ct = folder / "ct.nii.gz"
    write_nifti(boxes_ct()[0], ct)
    places = {"ISLET_STORE": str(store.root), "ISLET_SPOOL": str(folder / "spool")}
    port = free_port()
    with (
        (folder / "log").open("wb") as log,
        running(
            serve_command("127.0.0.1", port),
            serve_environment(os.environ | places | environment),
            f"http://127.0.0.1:{port}",
            log,
        ),
    ):
        yield Served(port, store, ct, folder / "spool")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with service(folder, ISLET_MAX_UPLOAD_MB=str(LIMIT_MB)) as running_service:
        yield running_service
        assert list((folder / "spool" / "staging").iterdir()) == []
    log = (folder / "log").read_text()
    # Paths may hold what a client put there.
    assert "/v1/nothing" not in log
    assert "Traceback" not in log


def test_health_metrics_page_and_unknown_paths(served: Served) -> None:
    assert served.get("/livez").status_code == 200
    assert served.get("/readyz").status_code == 200
    missing = served.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert served.get("/v1/models").json()["default"] == "starter"
    assert served.get("/v1/openapi.json").json()["servers"] == [{"url": "/v1"}]
    # The page, or how to build it; nothing of BentoML's.
    assert "Islet" in served.get("/").text
    assert "swagger" not in served.get("/").text.lower()
    assert served.get("/monailabel/info/").status_code == 200
    shown = served.get("/metrics").text
    assert 'islet_workers{ready="true"} 1.0' in shown
    assert shown.count("# TYPE islet_jobs gauge") == 1


def test_the_service_and_the_command_line_give_the_same_bytes(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ISLET_STORE", str(served.store.root))
    asked = {"model": None, "structures": "pancreas,tumor", "series": None, "device": "cpu"}
    here = {"outputs": None, "doubtful": None, "server": None}
    commands.segment(argparse.Namespace(ct=served.ct, out=tmp_path, **asked, **here))
    assert "pancreas" in capsys.readouterr().out

    answer = served.post("/v1/segment?structures=pancreas,tumor")

    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = archive.namelist()
        got = {n: archive.read(n) for n in names if n != "report.json"}
    assert set(names) == {p.name for p in tmp_path.iterdir()}
    assert got == {n: (tmp_path / n).read_bytes() for n in got}
    # A worker hands its figures in after the answer.
    model = served.store.resolve("starter").reference
    wanted = f'islet_step_seconds_count{{model="{model}",step="network"}}'
    end = time.monotonic() + 30
    while wanted not in (counted := served.get("/metrics").text) and time.monotonic() < end:
        time.sleep(0.2)
    assert wanted in counted
    assert 'islet_requests_total{endpoint="segment",outcome="ok"}' in counted


def test_a_job_is_followed_by_its_events(served: Served) -> None:
    asked = served.post("/v1/jobs").json()
    url = f"http://127.0.0.1:{served.port}{asked['links']['events']}"
    with httpx.stream("GET", url, timeout=60) as events:
        lines = [line for line in events.iter_lines() if line]
    assert lines[-3] == "event: end"
    job = json.loads(lines[-1].removeprefix("data: "))
    assert job["state"] == "done"
    with zipfile.ZipFile(io.BytesIO(served.get(job["links"]["result"]).content)) as archive:
        assert archive.testzip() is None
        assert {f["name"] for f in job["files"]} == set(archive.namelist())


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_gets_a_clean_413(served: Served, declared: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    size = 40 * LIMIT_MB * 2**20
    chunk = b"x" * 65536
    body = (chunk for _ in range(size // len(chunk)))
    headers = {"Content-Length": str(size)} if declared else {}
    # The service answers and hangs up before the body is through.
    with contextlib.suppress(OSError):
        connection.request("POST", "/v1/segment", body, headers, encode_chunked=not declared)
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    assert (response.status, error["code"]) == (413, "input_too_large")
    connection.close()


def test_a_client_that_hangs_up_leaves_no_file(served: Served) -> None:
    staging = served.spool / "staging"
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
            + b"x" * 500
        )
        _until(lambda: list(staging.iterdir()) != [])
    _until(lambda: list(staging.iterdir()) == [])


def test_what_a_federation_publishes_is_served_without_a_restart(
    served: Served, tmp_path: Path
) -> None:
    """The last request of a job is met at the site whose store the running service follows."""
    home = dataclasses.replace(homes(tmp_path)[0], store=served.store.root)
    path = "/v1/segment?model=federated@global&outputs=report"
    assert served.post(path).status_code == 404
    for round_ in (1, 2):
        # Each job's model calls another value pancreas.
        centres = {**CENTRES, "pancreas": 40.0 + 200 * (round_ - 1)}
        model = publish(Store(tmp_path / "server", behind=()), tmp_path, "federated", 3, centres)
        onnx = np.frombuffer(model.path.read_bytes(), np.uint8)
        request = message.pack({"kind": "finish", "chosen": f"round-{round_}"}, {"onnx": onnx})
        reply, _ = message.unpack(Site(job(), home, f"job-{round_}").handle(request))
        assert reply["kind"] == "done"
        answer = served.post(path)
        assert answer.status_code == 200
        assert answer.json()["model"]["version"] == round_


def test_without_workers_it_is_not_ready_takes_jobs_and_still_stops(tmp_path: Path) -> None:
    """A job that waits has listeners, and somebody who waits for it; neither keeps the service."""
    store = Store(tmp_path / "store", behind=())
    publish(store, tmp_path)
    ct = tmp_path / "ct.nii.gz"
    write_nifti(boxes_ct()[0], ct)
    served = Served(free_port(), store, ct, tmp_path / "spool")
    places = {"ISLET_STORE": str(store.root), "ISLET_SPOOL": str(served.spool)}
    process = subprocess.Popen(
        serve_command("127.0.0.1", served.port),
        env=serve_environment(os.environ | places | {"ISLET_WORKERS": "0"}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _until(lambda: _answers(served, "/livez"), 60)
        assert served.get("/readyz").status_code == 503
        asked = served.post("/v1/jobs").json()
        assert asked["state"] == "queued"
        waiting = socket.create_connection(("127.0.0.1", served.port))
        body = ct.read_bytes()
        head = "POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        waiting.sendall(head.encode() % len(body) + body)
        _until(lambda: len(served.get("/v1/jobs").json()["jobs"]) == 2)
        with httpx.stream(
            "GET", f"http://127.0.0.1:{served.port}{asked['links']['events']}"
        ) as told:
            assert next(told.iter_lines()) == "event: progress"
            began = time.monotonic()
            process.terminate()
            process.wait(20)
            assert time.monotonic() - began < 15
        waiting.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not _answers(served, "/livez")


def test_a_service_that_ends_at_once_is_reported(tmp_path: Path) -> None:
    environment = serve_environment(os.environ | {"ISLET_WORKERS": "many"})
    port = free_port()
    with (
        (tmp_path / "log").open("wb") as log,
        pytest.raises(ServiceFailed, match="exit code"),
        running(serve_command("127.0.0.1", port), environment, f"http://127.0.0.1:{port}", log),
    ):
        pytest.fail("it must not become ready")
    assert "ISLET_WORKERS" in (tmp_path / "log").read_text()


def _answers(served: Served, path: str) -> bool:
    try:
        return served.get(path).status_code == 200
    except httpx.TransportError:
        return False


def _until(condition: object, seconds: float = 15) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)
