"""One CT through a real service over HTTP, on this machine's loopback."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from imaging.errors import EmptyInput, ServiceFailed
from imaging.files import write_whole
from imaging.read import read_volume
from serving.preview import preview
from serving.process import free_port, running, serve_command, serve_environment
from serving.report import table
from serving.segment import LABELS, REPORT

_HOST = "127.0.0.1"
_ANSWER_WITHIN_S = 3600


def run_demo(ct: Path, out: Path) -> int:
    """Start the service, send it a CT, write what comes back and a picture, stop the service.

    Args:
        ct: a file (sent as it is) or a folder of DICOM files (sent as a zip).
        out: folder for the masks, the report, ``preview.png`` and the service's log.

    Returns:
        0 when masks were written, 1 when the service refused the CT.
    """
    out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://{_HOST}:{port}"
    with contextlib.ExitStack() as stack:
        body = stack.enter_context(_body(ct))
        log = stack.enter_context((out / "service.log").open("wb"))
        print(f"Starting the service at {url} ...")
        started = time.perf_counter()
        command = serve_command(_HOST, port)
        stack.enter_context(running(command, serve_environment(), url, log))
        print(f"Ready after {time.perf_counter() - started:.1f} s. Sending {ct} ...")
        started = time.perf_counter()
        status, answer = post(port, "/v1/segment", body)
        seconds = time.perf_counter() - started
    if status != 200:
        error = json.loads(answer)["error"]
        print(f"The service refused the CT ({status} {error['code']}): {error['message']}")
        return 1
    _unpack(answer, out)
    _draw(ct, out)
    print(table(json.loads((out / REPORT).read_bytes())))
    print(f"{seconds:.2f} s from upload to masks. Written to {out}/:")
    print("  " + "  ".join(sorted(p.name for p in out.iterdir())))
    return 0


def post(port: int, path: str, body: IO[bytes]) -> tuple[int, bytes]:
    """Status and answer of a streamed ``POST`` to the loopback.

    Raises:
        ServiceFailed: the service broke the connection.
    """
    connection = http.client.HTTPConnection(_HOST, port, timeout=_ANSWER_WITHIN_S)
    size = body.seek(0, io.SEEK_END)
    body.seek(0)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServiceFailed(
            f"The service broke the connection ({type(error).__name__}); its log says why."
        ) from error
    finally:
        connection.close()


@contextlib.contextmanager
def _body(ct: Path) -> Iterator[IO[bytes]]:
    """The bytes to send: a file's own, or a stored zip of a folder's files in a temporary file."""
    if ct.is_file():
        with ct.open("rb") as file:
            yield file
        return
    found = sorted(p for p in ct.rglob("*") if p.is_file())
    if not found:
        raise EmptyInput(f"There is no file at {ct}; give a CT's file or folder.")
    with tempfile.TemporaryFile() as packed:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for path in found:
                with (
                    path.open("rb") as file,
                    archive.open(f"{len(archive.namelist()):06d}", "w") as to,
                ):
                    shutil.copyfileobj(file, to)
        yield packed


def _unpack(answer: bytes, out: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(answer)) as archive:
        for name in archive.namelist():
            write_whole(out / name, archive.read(name))


def _draw(ct: Path, out: Path) -> None:
    report: dict[str, Any] = json.loads((out / REPORT).read_bytes())
    preview(read_volume(ct), read_volume(out / LABELS), out / "preview.png", tuple(report["masks"]))
