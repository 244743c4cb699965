"""Cases over HTTP, to a service as it ships but for its limits."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.trials.forged.case import LIMITS, Case, Seen
from benchmarks.trials.forged.cts import abdomen
from imaging.limits import MIB
from imaging.writers.nifti import encode_nifti
from serving.outputs import LABELS, REPORT
from serving.process import free_port, running, serve_command, serve_environment
from serving.statuses import codes

AT_ONCE = 2
_WITHIN_S = 600.0
_PATH = "/v1/segment"


@dataclass(frozen=True)
class Served:
    """A service that answers.

    Attributes:
        client: of it.
        log: file of all that its processes say.
        spool: its folder.
    """

    client: httpx.Client
    log: Path
    spool: Path


@contextmanager
def service(folder: Path, model: str) -> Iterator[Served]:
    """A service of its own with the limits of the cases.

    Args:
        folder: for its spool and its log.
        model: the service's default, in the default store.

    Raises:
        ServiceFailed: it was not ready within a minute.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    own = {
        "ISLET_SPOOL": str(folder / "spool"),
        "ISLET_MODEL": model,
        "ISLET_MAX_UPLOAD_MB": str(LIMITS.max_bytes // MIB),
        "ISLET_MAX_UNPACKED_MB": str(LIMITS.max_unpacked_bytes // MIB),
        "ISLET_MAX_FILES": str(LIMITS.max_files),
        "ISLET_MAX_VOXELS": str(LIMITS.max_voxels),
    }
    with (
        (folder / "log").open("wb") as log,
        running(
            serve_command("127.0.0.1", port), serve_environment({**os.environ, **own}), url, log
        ),
        httpx.Client(base_url=url, timeout=_WITHIN_S) as client,
    ):
        yield Served(client, folder / "log", folder / "spool")


def ask_all(served: Served, cases: Sequence[tuple[Case, Path]]) -> Iterator[tuple[Seen, float]]:
    """What the service makes of every case, in its order, and the seconds of each answer."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield from threads.map(lambda job: _timed(served.client, *job), cases)


def good_answer(served: Served) -> bytes:
    """The label map of a sound CT.

    Raises:
        httpx.HTTPError: it is not answered.
    """
    answer = served.client.post(_PATH, content=encode_nifti(abdomen()))
    answer.raise_for_status()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return archive.read(LABELS)


def unwell(served: Served, before: bytes) -> list[str]:
    """What is wrong with a service that has had all cases; nothing where it is as before.

    Args:
        served: the service.
        before: what :func:`good_answer` was before them.
    """
    faults = [
        f"{path} answers {status}"
        for path in ("/livez", "/readyz")
        if (status := served.client.get(path).status_code) != 200
    ]
    if good_answer(served) != before:
        faults.append("a sound CT has another answer than before")
    left = list((served.spool / "staging").iterdir())
    faults += [f"{len(left)} uploads are left"] if left else []
    said = served.log.read_text(errors="replace")
    return faults + [f"its log holds {word}" for word in ("Traceback", "Doe") if word in said]


def _timed(client: httpx.Client, case: Case, source: Path) -> tuple[Seen, float]:
    start = time.perf_counter()
    try:
        seen = _ask(client, case, source)
    except httpx.HTTPError as error:
        seen = Seen(f"no answer: {type(error).__name__}")
    return seen, time.perf_counter() - start


def _ask(client: httpx.Client, case: Case, source: Path) -> Seen:
    params = {"outputs": case.outputs} | ({"series": case.series} if case.series else {})
    if source.is_file():
        return _seen(client.post(_PATH, params=params, content=source.read_bytes()))
    with ExitStack() as held:
        files = [
            ("ct", ("ct", held.enter_context(path.open("rb"))))
            for path in sorted(source.rglob("*"))
            if path.is_file() and not path.is_symlink()
        ]
        if not files:
            # httpx sends no form without files.
            kind = {"content-type": "multipart/form-data; boundary=none"}
            return _seen(client.post(_PATH, params=params, content=b"--none--\r\n", headers=kind))
        return _seen(client.post(_PATH, params=params, files=files))


def _seen(answer: httpx.Response) -> Seen:
    if answer.status_code == httpx.codes.OK:
        return _of_report(_report(answer))
    code = answer.json()["error"]["code"]
    wanted = codes().get(code)
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or answer.status_code != wanted:
        return Seen(f"{code} with status {answer.status_code}")
    return Seen(code)


def _report(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any]
    if answer.headers["content-type"].startswith("application/json"):
        found = answer.json()
    else:
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            found = json.loads(archive.read(REPORT))
    return found


def _of_report(report: dict[str, Any]) -> Seen:
    return Seen(
        shape=tuple(report["input"]["shape"]),
        spacing=tuple(report["input"]["spacing_mm"]),
        warnings=tuple(report["warnings"]),
        nothing_here=report["nothing_here"],
    )
