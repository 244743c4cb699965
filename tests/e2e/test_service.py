"""The real service as a process: health, metrics, refusals on the wire, equal bytes."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from federation import message
from federation.site import Site
from imaging.errors import ServiceFailed
from imaging.writers.nifti import write_nifti
from models.store import Store
from serving import commands
from serving.demo import post
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

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as r:
                return r.status, r.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    store = Store(folder / "store", behind=())
    publish(store, folder)
    ct = folder / "ct.nii.gz"
    write_nifti(boxes_ct()[0], ct)
    environment = os.environ | {
        "ISLET_STORE": str(store.root),
        "ISLET_MAX_UPLOAD_MB": str(LIMIT_MB),
        "ISLET_WORKERS": "2",
        "TMPDIR": str(folder),
    }
    port = free_port()
    with (
        (folder / "log").open("wb") as log,
        running(
            serve_command("127.0.0.1", port),
            serve_environment(environment),
            f"http://127.0.0.1:{port}",
            log,
        ),
    ):
        yield Served(port, store, ct)
        assert list(folder.glob("islet-*")) == []


def test_health_metrics_and_unknown_paths(served: Served) -> None:
    assert served.get("/livez")[0] == 200
    assert served.get("/readyz")[0] == 200
    status, body = served.get("/v1/nothing")
    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")
    status, body = served.get("/v1/models")
    assert (status, json.loads(body)["default"]) == (200, "starter")
    status, body = served.get("/v1/openapi.json")
    assert (status, json.loads(body)["servers"]) == (200, [{"url": "/v1"}])


def test_the_service_and_the_command_line_give_the_same_bytes(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ISLET_STORE", str(served.store.root))
    asked = {"model": None, "structures": "pancreas,tumor", "series": None, "device": "cpu"}
    commands.segment(argparse.Namespace(ct=served.ct, out=tmp_path, **asked))
    assert "pancreas" in capsys.readouterr().out

    with served.ct.open("rb") as body:
        status, answer = post(served.port, "/v1/segment?structures=pancreas,tumor", body)

    assert status == 200
    with zipfile.ZipFile(io.BytesIO(answer)) as archive:
        names = archive.namelist()
        got = {n: archive.read(n) for n in names if n.endswith(".gz")}
    assert set(names) == {p.name for p in tmp_path.iterdir()}
    assert got == {n: (tmp_path / n).read_bytes() for n in got}
    counted = served.get("/metrics")[1].decode()
    assert 'islet_requests_total{endpoint="segment",outcome="ok"}' in counted
    assert 'islet_step_seconds_count{step="network"}' in counted


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
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500
        )
        folder = served.ct.parent
        _until(lambda: list(folder.glob("islet-*")) != [])
    _until(lambda: list(folder.glob("islet-*")) == [])


def test_not_ready_without_its_model_and_no_orphans(tmp_path: Path) -> None:
    port = free_port()
    environment = serve_environment(os.environ | {"ISLET_MODEL": "absent"})
    served = Served(port, Store(tmp_path), tmp_path)
    command = serve_command("127.0.0.1", port)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _until(lambda: _answers(served, "/livez"), 60)
        assert served.get("/readyz")[0] == 503
    finally:
        process.terminate()
        process.wait(20)
    _until(lambda: not _answers(served, "/livez"))


def test_a_service_that_ends_at_once_is_reported(tmp_path: Path) -> None:
    environment = serve_environment(os.environ | {"ISLET_CONCURRENCY": "many"})
    port = free_port()
    with (
        (tmp_path / "log").open("wb") as log,
        pytest.raises(ServiceFailed, match="exit code"),
        running(serve_command("127.0.0.1", port), environment, f"http://127.0.0.1:{port}", log),
    ):
        pytest.fail("it must not become ready")
    assert "ISLET_CONCURRENCY" in (tmp_path / "log").read_text()


def _answers(served: Served, path: str) -> bool:
    try:
        return served.get(path)[0] == 200
    except OSError:
        return False


def _until(condition: object, seconds: float = 15) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)


def test_what_a_federation_publishes_is_served_without_a_restart(
    served: Served, tmp_path: Path
) -> None:
    """The last request of a job is met at the site whose store the running service follows."""
    home = dataclasses.replace(homes(tmp_path)[0], store=served.store.root)
    path = "/v1/segment?model=federated@global&output=json"
    with served.ct.open("rb") as body:
        assert post(served.port, path, body)[0] == 404
    for round_ in (1, 2):
        # Each job's model calls another value pancreas.
        centres = {**CENTRES, "pancreas": 40.0 + 200 * (round_ - 1)}
        model = publish(Store(tmp_path / "server", behind=()), tmp_path, "federated", 3, centres)
        onnx = np.frombuffer(model.path.read_bytes(), np.uint8)
        request = message.pack({"kind": "finish", "chosen": f"round-{round_}"}, {"onnx": onnx})
        reply, _ = message.unpack(Site(job(), home, f"job-{round_}").handle(request))
        assert reply["kind"] == "done"
        with served.ct.open("rb") as body:
            status, answer = post(served.port, path, body)
        assert status == 200
        assert json.loads(answer)["model"]["version"] == round_
