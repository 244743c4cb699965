"""The client against the real interface, and against servers that fail it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.responses import JSONResponse

from imaging.errors import (
    BadParameter,
    Cancelled,
    EmptyInput,
    ModelNotFound,
    NotDicom,
    ServiceBusy,
    ServiceFailed,
    TruncatedFile,
    UnsupportedFormat,
)
from imaging.read import read_volume
from imaging.writers.nifti import write_nifti
from serving.bodies import FileBody, FormBody
from serving.client import Client
from serving.wire import RemoteError
from tests.imaging.dicom_files import write_series
from tests.serving.live import Live, listening
from tests.serving.tiny_model import CENTRES, boxes_ct

ROOT = Path(__file__).resolve().parents[2]
Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    with Client(live.url, token="ann", patience=30) as made:
        yield made


def test_a_ct_becomes_masks_in_a_folder(client: Client, ct: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    result = client.segment(
        ct,
        tmp_path / "out",
        structures=["kidney", "tumor"],
        progress=lambda step, part: told.append((step, part)),
    )
    names = ["labels.nii.gz", "kidney.nii.gz", "tumor.nii.gz", "preview.png", "report.json"]
    assert [path.name for path in result.files] == names
    np.testing.assert_array_equal(read_volume(result.files[0]).array, boxes_ct()[1])
    assert result.report["masks"]["kidney"]["volume_ml"] > 0
    assert told
    assert all(0 <= part <= 1 for _, part in told)


def test_a_folder_of_dicom_goes_without_its_names(
    client: Client, live: Live, tmp_path: Path
) -> None:
    stored = np.full((4, 16, 20), CENTRES["background"] + 1024, np.uint16)
    stored[1:3, 4:10, 5:12] = CENTRES["kidney"] + 1024
    folder = tmp_path / "Doe^John" / "deep"
    write_series(folder, stored)
    job = client.submit(folder.parent, outputs=["nifti", "seg"])
    held = [path.name for path in live.settings.spool.rglob("*")]
    job.wait()
    result = job.result(tmp_path / "out")
    assert result.report["structures"]["kidney"]["voxels"] == 2 * 6 * 7
    assert (tmp_path / "out" / "segmentation.dcm").read_bytes()[128:132] == b"DICM"
    assert not any("Doe" in name or name.endswith(".dcm") for name in held)


def test_the_same_key_is_the_same_job(client: Client, ct: Path) -> None:
    first, second = (client.submit(ct, key="once", outputs=["report"]) for _ in range(2))
    assert first.id == second.id
    assert client.submit(ct, outputs=["report"]).id != first.id
    first.wait()


def test_what_the_service_refuses_is_the_error_it_raised(
    client: Client, ct: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match="starter@live") as caught:
        client.submit(ct, model="monet")
    assert caught.value.details["status"] == 404
    with pytest.raises(BadParameter, match="no output 'dicom'"):
        client.submit(ct, outputs=["dicom"])
    with pytest.raises(NotDicom):
        client.segment(ct, tmp_path / "out", outputs=["seg"])
    other = tmp_path / "other.bin"
    other.write_bytes(b"not a CT at all")
    with pytest.raises(UnsupportedFormat):
        client.segment(other, tmp_path / "out")
    with pytest.raises(EmptyInput):
        client.submit(tmp_path / "absent")
    assert not (tmp_path / "out").exists()


def test_jobs_are_listed_cancelled_and_forgotten(client: Client, live: Live, ct: Path) -> None:
    job = client.submit(ct, outputs=["report"])
    assert job.wait()["state"] == "done"
    assert job.id in [found["id"] for found in client.jobs(state="done")]
    job.cancel()
    assert job.status()["state"] == "done"
    job.forget()
    assert job.id not in [found["id"] for found in client.jobs()]
    with Client(live.url, token="bob") as other:
        assert other.jobs() == []


def test_stopping_the_wait_cancels_the_job(client: Client, tmp_path: Path) -> None:
    # Long enough to be told in time.
    ct = tmp_path / "long.nii.gz"
    write_nifti(boxes_ct((160, 256, 256))[0], ct)

    def stop(step: str, part: float) -> None:
        raise Cancelled("enough")

    before = {found["id"] for found in client.jobs()}
    with pytest.raises(Cancelled, match="enough"):
        client.segment(ct, tmp_path / "out", progress=stop)
    (left,) = [found for found in client.jobs() if found["id"] not in before]
    with pytest.raises(Cancelled, match="was cancelled"):
        client.job(left["id"]).wait()


def test_models_are_listed(client: Client) -> None:
    listed = client.models()
    assert listed["default"] == "starter"
    assert [model["name"] for model in listed["models"]] == ["flat", "starter"]


@contextmanager
def scripted(*answers: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that gives these answers in turn, and the requests that it got."""
    seen: list[dict[str, Any]] = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = f"{self.command} {self.path}"
            seen.append({"path": path, "headers": dict(self.headers), "body": body})
            left.pop(0)(self)

        do_GET = do_POST = do_DELETE = do_PUT = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Tests are silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sends(status: int, body: Any, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def streams(*states: dict[str, Any]) -> Answer:
    """Server-sent events that break off after the last."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b": waiting\n\n")
        for state in states:
            handler.wfile.write(f"event: progress\ndata: {json.dumps(state)}\n\n".encode())
        handler.close_connection = True

    return answer


BUSY = {"error": {"code": "busy", "message": "Full.", "details": {"retry_after_s": 0}}}
QUEUED = {"state": "queued", "step": None, "part": 0.0, "error": None}
DONE = {"state": "done", "step": None, "part": 1.0, "error": None}


def test_an_upload_survives_lost_connections_and_a_full_queue(tmp_path: Path) -> None:
    """Every try carries the same body and the same key, so the job is made once."""
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 3_000_000)
    answers = (hangs_up, sends(429, BUSY, Retry_After="0"), hangs_up, sends(202, {"id": "ab12"}))
    with scripted(*answers) as (url, seen), Client(url, token="secret") as client:
        assert client.submit(tmp_path, structures=("kidney", "tumor")).id == "ab12"
    assert len(seen) == 4
    assert {r["path"] for r in seen} == {"POST /v1/jobs?structures=kidney%2Ctumor"}
    assert len({r["headers"]["Idempotency-Key"] for r in seen}) == 1
    assert len({r["body"] for r in seen}) == 1
    assert len(seen[0]["body"]) > 9_000_000
    assert seen[0]["headers"]["Authorization"] == "Bearer secret"


def test_patience_ends(tmp_path: Path) -> None:
    full = {"error": {"code": "busy", "message": "Full.", "details": {"retry_after_s": 600}}}
    with scripted(sends(429, full, Retry_After="600")) as (url, _), Client(url) as client:
        with pytest.raises(ServiceBusy, match="Full") as caught:
            client.models()
        assert caught.value.details["retry_after_s"] == 600
    with Client(url, patience=0.1) as client, pytest.raises(ServiceFailed, match="ConnectError"):
        client.models()


def test_events_go_on_after_a_lost_connection() -> None:
    told = []
    answers = (
        streams(QUEUED),
        hangs_up,
        streams({"state": "running", "step": "network", "part": 0.5, "error": None}),
        streams(DONE),
    )
    with scripted(*answers) as (url, seen), Client(url) as client:
        found = client.job("ab12").wait(lambda step, part: told.append((step, part)))
    assert found == DONE
    assert told == [("queued", 0.0), ("network", 0.5)]
    assert [r["path"] for r in seen] == ["GET /v1/jobs/ab12/events"] * 4


def test_a_failed_job_raises_its_own_error() -> None:
    error = {"code": "missing_slices", "message": "Two slices are missing.", "details": {"n": 2}}
    states = (
        {**DONE, "state": "failed", "error": error},
        {**DONE, "state": "cancelled"},
        {**DONE, "state": "failed", "error": {"code": "from_the_future", "message": "New."}},
    )
    with scripted(*map(streams, states)) as (url, _), Client(url) as client:
        job = client.job("ab12")
        with pytest.raises(Exception, match="Two slices") as caught:
            job.wait()
        assert caught.value.as_dict() == error
        with pytest.raises(Cancelled):
            job.wait()
        with pytest.raises(RemoteError, match="New") as unknown:
            job.wait()
        assert unknown.value.details["code"] == "from_the_future"


def test_answers_of_something_else_are_errors_too() -> None:
    page, elsewhere = sends(404, b"<html>no</html>"), sends(302, b"", Location="http://elsewhere/")
    with scripted(page, elsewhere) as (url, seen), Client(url) as client:
        for status in (404, 302):
            with pytest.raises(RemoteError, match=f"answered {status}"):
                client.models()
    assert len(seen) == 2


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of its own authority for 127.0.0.1, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(private, hashes.SHA256())
    )
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, key


def test_a_certificate_is_checked(certificate: tuple[Path, Path]) -> None:
    """An unknown authority is refused at once, not after the patience."""
    pem, key = map(str, certificate)
    app = JSONResponse({"default": "starter", "models": []})
    with listening(app, ssl_certfile=pem, ssl_keyfile=key) as url:
        with Client(url, ca=certificate[0]) as client:
            assert client.models()["default"] == "starter"
        started = time.monotonic()
        with Client(url, patience=60) as client, pytest.raises(ServiceFailed, match="not trusted"):
            client.models()
        assert time.monotonic() - started < 5
    with pytest.raises(BadParameter, match="PEM"):
        Client(url, ca=ROOT / "absent.pem")


def archive(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        for name, data in files.items():
            made.writestr(name.replace("__", "/"), data)
    return packed.getvalue()


@pytest.mark.parametrize(
    "sent",
    [archive(**{"..__evil": b"x"}), archive(__evil=b"x"), archive(**{".bashrc": b"x"}), b"half"],
)
def test_a_result_stays_in_its_folder(sent: bytes, tmp_path: Path) -> None:
    answers = scripted(sends(200, sent))
    with answers as (url, _), Client(url) as client, pytest.raises(TruncatedFile):
        client.job("ab12").result(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_result_that_breaks_off_is_fetched_again(tmp_path: Path) -> None:
    whole = archive(**{"report.json": b"{}", "kidney.nii.gz": bytes(5_000_000)})

    def half(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(whole)))
        handler.end_headers()
        handler.wfile.write(whole[: len(whole) // 2])
        handler.close_connection = True

    with scripted(half, sends(200, whole)) as (url, _), Client(url) as client:
        result = client.job("ab12").result(tmp_path / "out")
    assert [path.name for path in result.files] == ["report.json", "kidney.nii.gz"]
    assert {path.name for path in tmp_path.glob("out/*")} == {"report.json", "kidney.nii.gz"}


def test_publishing_is_not_tried_twice(tmp_path: Path) -> None:
    onnx, manifest = tmp_path / "m.onnx", tmp_path / "m.json"
    onnx.write_bytes(b"onnx")
    manifest.write_text('{"name": "x"}')
    with scripted(hangs_up) as (url, seen), Client(url) as client, pytest.raises(ServiceFailed):
        client.publish(onnx, manifest, ("live", "global"))
    assert len(seen) == 1
    assert seen[0]["body"].count(b'name="alias"') == 2
    assert b'{"name": "x"}' in seen[0]["body"]


def test_a_form_is_as_long_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 1_000_000)
    for body in (FileBody(path), FormBody({"ct": [path, path]}, {"alias": ["x", "ü"]})):
        first, again = b"".join(body.chunks()), b"".join(body.chunks())
        assert first == again
        assert len(first) == body.size


@pytest.mark.parametrize("url", ["islet.example", "ftp://islet.example", "http://"])
def test_an_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BadParameter, match="no URL"):
        Client(url)


def test_the_client_needs_nothing_of_serving_but_httpx() -> None:
    code = (
        "import sys, serving.client\n"
        "bad = {'onnxruntime', 'onnx', 'bentoml', 'numpy', 'starlette', 'pydicom', 'models'}\n"
        "bad &= set(sys.modules)\n"
        "sys.exit(f'loaded: {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
