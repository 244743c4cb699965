"""A real Orthanc on loopback, with its DICOMweb plugin and a temporary storage."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from serving.process import free_port

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_READY_WITHIN_S = 20.0


@dataclass(frozen=True)
class Orthanc:
    """Where it listens and how to ask it."""

    port: int
    dimse: int
    aet: str
    log: Path
    user: str | None = None
    password: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def dicomweb(self) -> str:
        return f"{self.url}/dicom-web"

    def ask(self, path: str, data: bytes | None = None, method: str | None = None) -> Any:
        request = urllib.request.Request(self.url + path, data, method=method)
        if self.user:
            both = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {both}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            body = answer.read()
        return json.loads(body) if body[:1] in (b"{", b"[", b'"') else body

    def send(self, files: list[Path]) -> None:
        """Upload DICOM files over REST."""
        for path in files:
            self.ask("/instances", path.read_bytes())

    def results(self, study: str) -> dict[str, list[Dataset]]:
        """What it holds of a study besides its CTs, by modality."""
        query = {"Level": "Series", "Query": {"StudyInstanceUID": study}, "Expand": True}
        found: dict[str, list[Dataset]] = {}
        for series in self.ask("/tools/find", json.dumps(query).encode()):
            modality = series["MainDicomTags"]["Modality"]
            if modality != "CT":
                files = [self.ask(f"/instances/{id}/file") for id in series["Instances"]]
                read = [dcmread(BytesIO(data)) for data in files]
                found.setdefault(modality, []).extend(read)
        return found


class _Front(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    context: ssl.SSLContext
    behind: int

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, where = super().get_request()
        wrapped = self.context.wrap_socket(plain, True, do_handshake_on_connect=False)
        return wrapped, where


class _Relay(socketserver.BaseRequestHandler):
    """Copies bytes both ways until one side ends."""

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Front)
        with socket.create_connection(("127.0.0.1", server.behind)) as behind:
            back = threading.Thread(target=_copy, args=(behind, self.request), daemon=True)
            back.start()
            _copy(self.request, behind)
            back.join()


def _copy(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)


@contextmanager
def tls_front(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """What stands before an archive in a hospital: speaks TLS, and plainly to ``port`` behind it.

    Debian's Orthanc 1.10.1 dies at the first HTTPS connection, so the tests do not use its own.
    """
    with _Front(("127.0.0.1", 0), _Relay) as front:
        front.context, front.behind = context, port
        threading.Thread(target=front.serve_forever, args=(0.05,), daemon=True).start()
        yield front.server_address[1]
        front.shutdown()


def needs(*programs: str) -> None:
    """Skip where a program or Orthanc's plugin is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if "Orthanc" in programs and not _PLUGIN.exists():
        pytest.skip("orthanc-dicomweb is not installed")


@contextmanager
def orthanc(folder: Path, aet: str = "ORTHANC", **more: Any) -> Iterator[Orthanc]:
    """Run one until the block ends; ``more`` goes into its configuration."""
    needs("Orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    port, dimse = free_port(), free_port()
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(_PLUGIN)],
        "HttpPort": port,
        "DicomServerEnabled": False,
        "DicomPort": dimse,
        "DicomAet": aet,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StableAge": 1,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration | more))
    made = Orthanc(
        port,
        dimse,
        aet,
        folder / "log",
        *next(iter(more.get("RegisteredUsers", {}).items()), (None, None)),
    )
    with made.log.open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(path)], stdout=log, stderr=subprocess.STDOUT)
        try:
            _await(process, made)
            yield made
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: subprocess.Popen[bytes], made: Orthanc) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            made.ask("/system")
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(made.log.read_text(errors="replace")[-2000:])


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 of its own making, and its key."""
    mine, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", mine),
        ],
        check=True,
        capture_output=True,
    )
    return mine, key
