"""The real service behind its guard: TLS, certificates, tokens, and no patient in any log."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom import Dataset

from imaging.writers.nifti import write_nifti
from islet import main
from models.store import Store
from serving.guard.identity import Role
from serving.process import free_port, running, serve_command, serve_environment
from tests.imaging.dicom_files import stored_values, write_series
from tests.serving.guard.apps import bearer, lines, token
from tests.serving.tiny_model import boxes_ct, publish

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAME = "DOE^JANE"
UID = "1.2.826.0.1.3680043.8.498.4711"
ACCESSION = "ACC0815"
# What would begin a line of a log, and colour it.
FORGED = "\r\n2026-03-01 CRITICAL forged\x1b[31m"


@dataclass(frozen=True)
class Authority:
    """One that signs certificates, in a folder of PEM files."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.pem"

    def sign(self, who: str, *addresses: str) -> tuple[Path, Path]:
        """A certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(_name(who), self.name, key)
        if addresses:
            names = [x509.IPAddress(ip_address(address)) for address in addresses]
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        paths = self.folder / f"{who}.pem", self.folder / f"{who}.key"
        signed = made.sign(self.key, hashes.SHA256())
        paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths


def _name(who: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


def authority(folder: Path) -> Authority:
    """A new one."""
    folder.mkdir(parents=True)
    key, name = ec.generate_private_key(ec.SECP256R1()), _name(f"ca of {folder.name}")
    made = Authority(folder, key, name)
    own = _builder(name, name, key)
    own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    signed = own.sign(key, hashes.SHA256())
    made.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return made


@dataclass(frozen=True)
class Served:
    """A service with TLS, tokens and an audit log."""

    url: str
    folder: Path
    trust: ssl.SSLContext
    tokens: dict[Role, dict[str, str]]

    def ask(self, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, verify=self.trust, timeout=30, **more)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("guard")
    store = Store(folder / "store", behind=())
    publish(store, folder)
    write_nifti(boxes_ct()[0], folder / "ct.nii.gz")
    hospital = authority(folder / "hospital")
    certificate, key = hospital.sign("islet", "127.0.0.1")
    tokens = {role: bearer(token(folder, role)) for role in Role}
    port = free_port()
    environment = os.environ | {
        "ISLET_STORE": str(store.root),
        "ISLET_SPOOL": str(folder / "spool"),
        "ISLET_TOKENS": str(folder / "tokens.toml"),
        "ISLET_AUDIT": str(folder / "audit.jsonl"),
    }
    url = f"https://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("wb") as log:
        # For the question whether it is ready.
        patch.setenv("SSL_CERT_FILE", str(hospital.certificate))
        command = serve_command("127.0.0.1", port, certificate, key)
        with running(command, serve_environment(environment), url, log):
            patch.undo()
            trust = ssl.create_default_context(cafile=hospital.certificate)
            yield Served(url, folder, trust, tokens)


def test_tls_and_tokens(served: Served) -> None:
    assert served.ask("/readyz").status_code == 200
    for path in ("/v1/jobs", "/v1/openapi.json", "/metrics", "/schema.json", "/docs.json", "/no"):
        refused = served.ask(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthenticated")
        assert refused.headers["www-authenticate"].startswith("Bearer")
    reader, segmenter = served.tokens[Role.READ], served.tokens[Role.SEGMENT]
    assert served.ask("/v1/models", headers=reader).status_code == 200
    assert "islet_requests_total" in served.ask("/metrics", headers=reader).text
    assert served.ask("/schema.json", headers=segmenter).status_code == 403
    body = (served.folder / "ct.nii.gz").read_bytes()
    refused = served.ask("/v1/jobs", "POST", headers=reader, content=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert served.ask("/v1/segment", "POST", headers=segmenter, content=body).status_code == 200
    page = served.ask("/")
    if page.headers["content-type"].startswith("text/html"):
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(served.url, verify=ssl.create_default_context())
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(served.url.replace("https", "http"))


def test_tls_1_2_is_spoken_with_ciphers_that_authenticate(served: Served) -> None:
    trust = ssl.create_default_context(cafile=served.folder / "hospital" / "ca.pem")
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    trust.set_ciphers("ECDHE+AESGCM")
    assert httpx.get(f"{served.url}/livez", verify=trust).status_code == 200
    trust.set_ciphers("ECDHE+AES+SHA1")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/livez", verify=trust)


def test_jobs_belong_to_who_submitted_them(served: Served) -> None:
    body = (served.folder / "ct.nii.gz").read_bytes()
    made = served.ask("/v1/jobs", "POST", headers=served.tokens[Role.SEGMENT], content=body)
    assert made.status_code == 202
    place = f"/v1/jobs/{made.json()['id']}"
    for role, status in ((Role.READ, 404), (Role.SEGMENT, 200), (Role.ADMIN, 200)):
        assert served.ask(place, headers=served.tokens[role]).status_code == status, role
    assert served.ask(place, "DELETE", headers=served.tokens[Role.READ]).status_code == 403


def test_no_patient_stands_in_any_log(served: Served, tmp_path: Path) -> None:
    """A name and a UID are planted wherever a client can put them."""

    def named(ds: Dataset, index: int) -> None:
        ds.PatientName, ds.PatientID, ds.StudyInstanceUID = NAME, NAME, UID
        ds.AccessionNumber, ds.SeriesDescription = ACCESSION, "forged\x1b[31m"

    write_series(tmp_path, stored_values(), edit=named)
    who = served.tokens[Role.SEGMENT]
    slices = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    files = [("ct", (f"{NAME}.dcm", path.read_bytes())) for path in slices]
    sent = served.ask(
        "/v1/jobs",
        "POST",
        headers=who | {"User-Agent": NAME, "Idempotency-Key": NAME, "X-Request-ID": NAME},
        files=files,
    )
    assert sent.status_code == 202
    place = f"/v1/jobs/{sent.json()['id']}"
    _ended(served, place, who)
    planted = [
        ("GET", f"/v1/jobs/{NAME}", {}),
        ("GET", f"/v1/dicomweb/studies/{UID}", {}),
        ("GET", f"/{NAME}", {}),
        ("GET", f"/v1/models/{NAME}", {}),
        ("POST", f"/v1/segment?structures={NAME}", {"content": b"x"}),
        ("POST", f"/v1/segment?model={NAME}", {"content": b"x"}),
        ("POST", "/v1/segment", {"files": {"ct": (f"{NAME}.nii.gz", NAME.encode())}}),
        ("POST", "/v1/segment", {"data": {NAME: NAME}, "files": {"ct": ("a", b"x")}}),
        ("POST", "/v1/segment", {"content": b"x", "headers": bearer(NAME)}),
        ("GET", f"/v1/jobs/{quote(FORGED, safe='')}", {}),
        ("GET", f"/{quote(FORGED, safe='')}", {}),
        ("POST", f"/v1/segment?model={quote(FORGED)}", {"content": b"x"}),
        ("POST", "/v1/segment", {"files": {"ct": (FORGED, b"x")}}),
        ("POST", "/v1/dicomweb", {"json": {"server": FORGED, "study": FORGED}}),
    ]
    for method, path, more in planted:
        headers = who | more.pop("headers", {})
        refused = served.ask(path, method, headers=headers, **more)
        assert refused.status_code >= 400, path
        # An answer may name what a path or a field said, and nothing of a file.
        assert {"files", "data"} & set(more) != {"files"} or "JANE" not in refused.text

    secrets = [header["Authorization"].partition(" ")[2] for header in served.tokens.values()]
    numbers = served.ask("/metrics", headers=who).text
    noted = (served.folder / "audit.jsonl").read_text()
    log = (served.folder / "log").read_text()
    for text, where in ((noted, "audit"), (log, "log"), (numbers, "metrics")):
        for word in ("DOE", "JANE", UID, ACCESSION, "forged", *secrets):
            assert word not in text, where
    for path in _records(served.folder / "spool"):
        held = path.read_bytes()
        for word in ("DOE", "JANE", UID, ACCESSION, "forged", *secrets):
            assert word.encode() not in held, path
    written = lines(served.folder / "audit.jsonl")
    job = next(line for line in written if line["method"] == "POST" and line.get("job"))
    assert job["subject"] == "who-segment"
    assert job["status"] in (200, 202)
    assert {"route", "time", "seconds", "bytes_in", "bytes_out"} <= set(job)
    assert any(line["route"] == "/v1/jobs/{id}" for line in written)


def _records(spool: Path) -> list[Path]:
    """Every file of a spool but uploads and results, which hold the patient by their nature."""
    found = [p for p in spool.rglob("*") if p.is_file() and "input" not in p.parts]
    kept = [p for p in found if p.name != "result.zip" and "staging" not in p.parts]
    assert any(p.suffix == ".db" for p in kept)
    return kept


def _ended(served: Served, place: str, who: dict[str, str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if served.ask(place, headers=who).json()["state"] in ("done", "failed"):
            return
        time.sleep(0.1)
    pytest.fail("the job did not end")


def test_the_audit_log_may_be_moved_away(served: Served) -> None:
    path, moved = served.folder / "audit.jsonl", served.folder / "audit.1"
    path.rename(moved)
    assert served.ask("/v1/models", headers=served.tokens[Role.READ]).status_code == 200
    # A line is written once the answer is out: the one before may come after the move, too.
    deadline, found = time.monotonic() + 30, []
    while not found and time.monotonic() < deadline:
        time.sleep(0.02)
        found = [x for x in (lines(path) if path.exists() else []) if x["route"] == "/v1/models"]
    (line,) = found
    assert line["subject"] == "who-read"


def test_a_token_that_was_revoked_is_refused_within_seconds(served: Served) -> None:
    secret = bearer(token(served.folder, Role.READ, "leaver"))
    _until(served, secret, 200)
    command = ["token", "revoke", "leaver", "--file", str(served.folder / "tokens.toml")]
    assert main(command) == 0
    _until(served, secret, 401)


def _until(served: Served, secret: dict[str, str], status: int) -> None:
    deadline = time.monotonic() + 5
    while served.ask("/v1/models", headers=secret).status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_clients_may_have_to_show_a_certificate(tmp_path: Path) -> None:
    hospital, other = authority(tmp_path / "hospital"), authority(tmp_path / "other")
    certificate, key = hospital.sign("islet", "127.0.0.1")
    trust = {
        who: ssl.create_default_context(cafile=hospital.certificate)
        for who in ("", "ours", "other")
    }
    trust["ours"].load_cert_chain(*hospital.sign("gateway"))
    trust["other"].load_cert_chain(*other.sign("stranger"))
    port = free_port()
    command = serve_command("127.0.0.1", port, certificate, key, hospital.certificate)
    with _started(command, tmp_path) as process:
        url = f"https://127.0.0.1:{port}/livez"
        deadline = time.monotonic() + 30
        while True:
            try:
                assert httpx.get(url, verify=trust["ours"]).status_code == 200
                break
            except httpx.TransportError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        for who in ("", "other"):
            # With TLS 1.3 the refusal comes as the answer to the request.
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
                httpx.get(url, verify=trust[who])


@pytest.mark.parametrize("command", ["bentoml", "islet"])
def test_a_service_without_tokens_does_not_start_for_the_network(
    tmp_path: Path, command: str
) -> None:
    python = [str(Path(sys.executable).with_name("islet")), "serve", "--host", "0.0.0.0"]
    bentoml = serve_command("0.0.0.0", free_port())
    with _started(bentoml if command == "bentoml" else python, tmp_path) as process:
        assert process.wait(30) != 0
    log = (tmp_path / "log").read_text()
    assert "islet token new" in log
    assert "0.0.0.0" in log
    assert "Traceback" not in log


@contextmanager
def _started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A service without workers, models or tokens; its whole group is ended."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ISLET_")}
    environment |= {
        "ISLET_STORE": str(folder / "store"),
        "ISLET_SPOOL": str(folder / "spool"),
        "ISLET_WORKERS": "0",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=serve_environment(environment),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
