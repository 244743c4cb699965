"""Jobs and their results as HTTP answers."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from imaging.errors import JobNotFound
from serving.api.desk import desk_of
from serving.api.endpoint import note
from serving.jobs.jobs import Jobs
from serving.jobs.record import ENDED, Job, State
from serving.options import PRIORITIES
from serving.threads import in_thread

_CHUNK = 1 << 20
_BOUNDARY = "islet-part"
MULTIPART = ("multipart/related", "multipart/mixed")
ZIP = "application/zip"
JSON = "application/json"

# Somebody waits for the answer: it goes before every job that nobody waits for.
AWAITED = 30
PRIORITY_WORDS = {number: word for word, number in PRIORITIES.items()} | {AWAITED: "awaited"}


def job_body(jobs: Jobs, job: Job, base: str) -> dict[str, Any]:
    """A job as its owner sees it; blocking.

    Args:
        jobs: knows its place and how long it may take.
        job: the record.
        base: path that the interface is mounted at, ``/v1``.
    """
    here = f"{base}/jobs/{job.id}"
    links = {"self": here, "events": f"{here}/events"}
    if job.state is State.DONE:
        links["result"] = f"{here}/result"
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state.value,
        "cancelling": job.cancelling,
        "priority": PRIORITY_WORDS[job.priority],
        "place": jobs.place(job),
        "step": job.step,
        "part": job.part,
        "eta_s": None if job.state in ENDED else jobs.eta_s(job),
        "created": _moment(job.created),
        "started": _moment(job.started),
        "ended": _moment(job.ended),
        "attempts": job.attempts,
        "model": job.request.get("model"),
        "model_sha256": job.model,
        "files": [
            file | {"href": f"{here}/result/{file['name']}"}
            for file in (job.result or {}).get("files", ())
        ],
        "error": job.error,
        "links": links,
    }


async def show(request: Request, job: Job) -> dict[str, Any]:
    """A job as its owner sees it."""
    return await in_thread(job_body, desk_of(request).jobs, job, base_of(request))


async def accepted(request: Request, job: Job) -> Response:
    """202 for a job that was submitted, with the place where it can be asked for."""
    note(request, job=job.id)
    body = await show(request, job)
    return JSONResponse(body, 202, {"Location": body["links"]["self"]})


def base_of(request: Request) -> str:
    """The path that the interface is mounted at."""
    return str(request.scope.get("root_path", ""))


def preferred(request: Request, offered: tuple[str, ...]) -> str:
    """The offered media type that the Accept header likes best; the first where it names none."""
    liked = []
    for number, asked in enumerate(request.headers.get("accept", "").split(",")):
        kind, *parameters = (word.strip().lower() for word in asked.split(";"))
        liked.append((-_weight(parameters), number, kind))
    return next((kind for _, _, kind in sorted(liked) if kind in offered), offered[0])


def _weight(parameters: list[str]) -> float:
    for word in parameters:
        if word.startswith("q="):
            try:
                return float(word[2:])
            except ValueError:
                return 0.0
    return 1.0


async def whole_result(
    request: Request, job: Job, path: Path, background: BackgroundTask | None = None
) -> Response:
    """Every file of a result: the zip on disk, or its members as the parts of a multipart body.

    Args:
        request: its Accept header chooses.
        job: whose result it is.
        path: of the result.
        background: done once the answer is sent.
    """
    kind = preferred(request, (ZIP, *MULTIPART))
    if kind == ZIP:
        return FileResponse(
            path, media_type=ZIP, filename=f"islet-{job.id[:8]}.zip", background=background
        )
    # Opened here, so that what is cleaned up meanwhile still arrives whole.
    file = await in_thread(_open, path)
    types = {f["name"]: f["type"] for f in (job.result or {}).get("files", ())}
    media = f'{kind}; boundary="{_BOUNDARY}-{job.id}"'
    if kind == MULTIPART[0]:
        media += '; type="application/octet-stream"'
    parts = _parts(file, types, f"{_BOUNDARY}-{job.id}".encode())
    return StreamingResponse(parts, media_type=media, background=background)


async def one_file(request: Request, job: Job, path: Path, name: str) -> Response:
    """One file of a result, with its media type.

    Raises:
        JobNotFound: the result has no file of that name.
    """
    found = {f["name"]: f for f in (job.result or {}).get("files", ())}
    if name not in found:
        raise JobNotFound(
            f"The result has no such file; it has {', '.join(found)}.", files=list(found)
        )
    file = await in_thread(_open, path)
    info = file.getinfo(name)
    headers = {"ETag": f'"{info.CRC:08x}-{info.file_size:x}"', "Cache-Control": "private, no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        file.close()
        return Response(status_code=304, headers=headers)
    shown = found[name]["type"] in ("image/png", JSON)
    headers["Content-Length"] = str(info.file_size)
    headers["Content-Disposition"] = f'{"inline" if shown else "attachment"}; filename="{name}"'
    return StreamingResponse(_member(file, name), 200, headers, media_type=found[name]["type"])


def read_member(path: Path, name: str) -> bytes:
    """A small file of a result, whole; blocking."""
    with _open(path) as file:
        return file.read(name)


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise JobNotFound("The result was cleaned up; send the CT again.") from error


def _member(file: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with file, file.open(name) as member:
        yield from _chunks(member)


def _parts(file: zipfile.ZipFile, types: dict[str, str], boundary: bytes) -> Iterator[bytes]:
    with file:
        for info in file.infolist():
            name = info.filename
            yield (
                b"--%b\r\nContent-Type: %b\r\nContent-Length: %d\r\nContent-ID: <%b>\r\n"
                b'Content-Disposition: attachment; filename="%b"\r\n\r\n'
            ) % (boundary, types[name].encode(), info.file_size, name.encode(), name.encode())
            with file.open(info) as member:
                yield from _chunks(member)
            yield b"\r\n"
        yield b"--%b--\r\n" % boundary


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
