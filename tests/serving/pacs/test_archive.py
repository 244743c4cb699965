"""Archives that answer late, wrongly, half or without end; each becomes a named error in time."""

from __future__ import annotations

import json
import re
import socketserver
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import socket

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from imaging.errors import InputTooLarge, PacsError
from imaging.limits import DEFAULT_LIMITS
from serving.pacs.archive import Archive
from serving.pacs.config import Server
from serving.pacs.rules import Series
from serving.pacs.tls import Tls
from tests.serving.pacs.orthanc import certificate, needs, orthanc, tls_front
from tests.serving.pacs.scenes import write_boxes

Answer = Callable[[socket, str], None]
NAME = "Doe^Jane"
BOUNDARY = "b0"


class _Rude(socketserver.ThreadingTCPServer):
    """Reads a request's head and lets the test write whatever it likes."""

    daemon_threads = True
    block_on_close = False
    answer: Answer
    asked: list[str]


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Rude)
        with self.request.makefile("rb") as lines:
            head = "".join(line.decode() for line in iter(lines.readline, b"\r\n") if line)
            size = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            lines.read(int(size[1]) if size else 0)
        server.asked.append(head.split("\r\n")[0])
        try:
            server.answer(self.request, head)
        except OSError:
            return


@contextmanager
def rude(answer: Answer) -> Iterator[tuple[Server, list[str]]]:
    with _Rude(("127.0.0.1", 0), _Handler) as server:
        server.answer, server.asked = answer, []
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield Server("main", url, timeout_s=0.5, transfer_s=1.0), server.asked
        server.shutdown()


def full(status: str, kind: str, body: bytes, *headers: str) -> Answer:
    def answer(to: socket, _: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        to.sendall("\r\n".join([*lines, *headers, "Connection: close", "", ""]).encode() + body)

    return answer


def series_of(server: Server) -> list[Series]:
    with Archive(server, DEFAULT_LIMITS) as archive:
        return archive.series("1.2.3")


def silent(to: socket, _: str) -> None:
    time.sleep(3)


def drips(to: socket, _: str) -> None:
    to.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n")
    for _n in range(100):
        to.sendall(b" ")
        time.sleep(0.1)


def floods(to: socket, _: str) -> None:
    to.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n")
    while True:
        to.sendall(b" " * 2**20)


def half(to: socket, _: str) -> None:
    to.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\nContent-Length: 100\r\n\r\n[{"
    )


JSON = "application/dicom+json"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (silent, "no answer within 0.5 s"),
        (drips, "did not finish its answer within 0.5 s"),
        (half, "connection failed or broke off"),
        (lambda to, _: to.close(), "connection failed or broke off"),
        (full("200 OK", JSON, f"{NAME} is no JSON".encode()), "not what DICOMweb says"),
        (full("200 OK", JSON, b'[{"0020000E": 3}]'), "not what DICOMweb says"),
        (full("200 OK", JSON, b"7"), "not what DICOMweb says"),
        (full("200 OK", JSON, json.dumps([{}]).encode()), "not what DICOMweb says"),
        (
            full("200 OK", JSON, b'[{"0020000E": {"vr": "UI", "Value": ["1/../2"]}}]'),
            "not what DICOMweb says",
        ),
        (full("500 Oh", "text/plain", NAME.encode()), "HTTP status 500"),
        (full("401 No", "text/plain", b""), "HTTP status 401; check its credentials"),
    ],
)
def test_a_search_that_goes_wrong_is_named(answer: Answer, says: str) -> None:
    began = time.monotonic()
    with rude(answer) as (server, _), pytest.raises(PacsError, match=says) as caught:
        series_of(server)
    assert time.monotonic() - began < 2.5
    assert caught.value.details["server"] == "main"
    assert NAME not in json.dumps(caught.value.as_dict())


def test_an_answer_without_end_is_cut() -> None:
    with rude(floods) as (server, _), pytest.raises(InputTooLarge, match="main sends more"):
        series_of(replace(server, timeout_s=20.0))


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_refused_and_its_target_never_asked(status: str) -> None:
    with rude(full("200 OK", JSON, b"[]")) as (target, asked):
        port = urllib.parse.urlsplit(target.url).port
        location = f"Location: http://127.0.0.1:{port}/studies/1.2.3/series"
        with (
            rude(full(status, "text/plain", b"", location)) as (server, _),
            pytest.raises(PacsError, match="redirect"),
        ):
            series_of(server)
        assert asked == []


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with rude(full("200 OK", JSON, b"[]")) as (server, asked):
        assert series_of(server) == []
    assert asked[0].startswith("GET /studies/1.2.3/series?")


def test_an_archive_that_restarts_is_asked_again() -> None:
    answers = [full("503 Soon", "text/plain", b""), full("200 OK", JSON, b"[]")]
    with rude(lambda to, head: answers.pop(0)(to, head)) as (server, asked):
        assert series_of(server) == []
    assert len(asked) == 2


def test_prefixes_and_the_token_are_used(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame\n")
    heads: list[str] = []

    def answer(to: socket, head: str) -> None:
        heads.append(head)
        full("200 OK", "application/dicom+json; charset=utf-8", b"[]")(to, head)

    with rude(answer) as (server, asked):
        named = replace(server, qido="qido-rs", token_file=tmp_path / "token")
        series_of(named)
    assert asked[0].startswith("GET /qido-rs/studies/1.2.3/series?")
    assert "Authorization: Bearer sesame" in heads[0]


def multipart(*files: bytes, end: bytes = f"\r\n--{BOUNDARY}--".encode()) -> bytes:
    head = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + data for data in files) + end


MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def fetch(answer: Answer, series: str, expected: int, folder: Path) -> list[Path]:
    known = Series(series, instances=expected)
    with rude(answer) as (server, _), Archive(server, DEFAULT_LIMITS) as archive:
        return archive.fetch("1.2", known, folder, lambda step, part: None)


def test_a_series_must_come_whole_and_be_the_one_asked_for(tmp_path: Path) -> None:
    series, files = write_boxes(tmp_path / "ct", generate_uid())
    first, second = (path.read_bytes() for path in files[:2])
    out = tmp_path / "out"
    out.mkdir()

    assert len(fetch(full("200 OK", MULTIPART, multipart(first, second)), series, 2, out)) == 2
    twice = full("200 OK", MULTIPART, multipart(first, first))
    with pytest.raises(PacsError, match="sent 1 of 2 instances"):
        fetch(twice, series, 2, out)
    with pytest.raises(PacsError, match="another series"):
        fetch(full("200 OK", MULTIPART, multipart(first)), "1.2.3", 1, out)
    with pytest.raises(PacsError, match="sent 0 of 2"):
        fetch(full("200 OK", MULTIPART, multipart()), series, 2, out)
    with pytest.raises(PacsError, match="not what DICOMweb says"):
        fetch(full("200 OK", MULTIPART, multipart(b"no DICOM")), series, 1, out)
    with pytest.raises(PacsError, match="not what DICOMweb says"):
        fetch(full("200 OK", "text/html", b"<html>"), series, 1, out)


@pytest.mark.parametrize("answered", ["failed", "not named", "taken", "nothing"])
def test_a_store_is_believed_only_where_the_answer_names_the_object(
    answered: str, tmp_path: Path
) -> None:
    _, files = write_boxes(tmp_path / "ct", generate_uid())
    uid = str(dcmread(files[0]).SOPInstanceUID)

    def item(uid: str) -> dict:
        return {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [272]}}

    failed = {"00081198": {"vr": "SQ", "Value": [item(uid)]}}
    other = {"00081199": {"vr": "SQ", "Value": [item("1.2.3")]}}
    taken = {"00081199": {"vr": "SQ", "Value": [item(uid)]}}
    body = {"failed": failed, "not named": other, "taken": taken, "nothing": {}}[answered]
    status = "202 Accepted" if answered == "failed" else "200 OK"
    kind = "application/dicom+json; charset=utf-8"

    def store() -> list[str]:
        answer = full(status, kind, json.dumps(body).encode())
        with rude(answer) as (server, _), Archive(server, DEFAULT_LIMITS) as archive:
            return archive.store("1.2", {"a.dcm": files[0]}, lambda step, part: None)

    if answered in ("taken", "nothing"):
        assert store() == [uid]
        return
    says = "failure reason 0x0110" if answered == "failed" else "not among those"
    with pytest.raises(PacsError, match=says) as caught:
        store()
    assert caught.value.details["failed"][0]["file"] == "a.dcm"


def test_tls_on_both_sides_and_a_password_towards_a_real_archive(tmp_path: Path) -> None:
    needs("openssl")
    mine, key = certificate(tmp_path)
    (tmp_path / "password").write_text("sesame\n")
    study = generate_uid()
    series, files = write_boxes(tmp_path / "ct", study)
    users = {"AuthenticationEnabled": True, "RegisteredUsers": {"islet": "sesame"}}
    # It asks whoever comes for a certificate.
    context = Tls(ca=mine, certificate=mine, key=key).server()
    with orthanc(tmp_path / "orthanc", **users) as pacs, tls_front(pacs.port, context) as port:
        pacs.send(files)
        known = Server(
            "main",
            f"https://127.0.0.1:{port}/dicom-web",
            user="islet",
            password_file=tmp_path / "password",
            tls=Tls(ca=mine, certificate=mine, key=key),
        )
        with Archive(known, DEFAULT_LIMITS) as archive:
            assert [s.uid for s in archive.series(study)] == [series]
        with pytest.raises(PacsError, match="TLS connection failed"):
            series_of(replace(known, tls=Tls(certificate=mine, key=key)))
        with pytest.raises(PacsError, match=r"TLS connection failed|broke off"):
            series_of(replace(known, tls=Tls(ca=mine)))
        (tmp_path / "password").write_text("wrong\n")
        with pytest.raises(PacsError, match="401; check its credentials"):
            series_of(known)
