"""An archive that answers late, wrongly, half or never: a real one behind a proxy that misbehaves.

Each job fetches a study, segments it and stores the masks; at one of its requests, chosen by a
seed, the proxy does something that it must not. The job either ends right or with an error of the
tree, in bounded time; tried again through a proxy that behaves, it ends right and leaves each
object in the archive once.
"""

from __future__ import annotations

import http.client
import json
import random
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydicom.uid import generate_uid

from benchmarks.trials.row import Row
from imaging.errors import IsletError
from models.store import Store
from serving.engines import Engines
from serving.jobs.record import Job, State
from serving.jobs.task import Done, Task
from serving.options import Options
from serving.pacs.perform import perform_dicomweb
from serving.settings import Settings
from tests.serving.pacs.orthanc import Orthanc, orthanc
from tests.serving.pacs.scenes import write_boxes
from tests.serving.tiny_model import publish

_TIMEOUT_S, _TRANSFER_S = 2, 4
# Requests of a job that behaves: two searches and a header, the series, an object of each kind.
_REQUESTS = 6
# Retries, and one answer that is cut at its longest, beside the work.
_BOUND_S = 60.0
_OBJECTS = 2
_OPTIONS = Options(device="cpu", outputs=("seg", "sr"))


@dataclass
class Answer:
    """What the archive itself answered."""

    status: int
    kind: str
    body: bytes


# Answers in the archive's place; ``False`` breaks the connection off.
Misbehave = Callable[["_Relay", Answer], bool]


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    behind: int
    # How many requests still behave, and what happens then.
    left: int
    fault: Misbehave | None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that gives up is what is looked for."""


class _Relay(BaseHTTPRequestHandler):
    """Passes on, until it is time for something else."""

    protocol_version = "HTTP/1.1"
    server: _Proxy

    def do_GET(self) -> None:
        """Any request."""
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = self._asked(sent)
        self.server.left -= 1
        fault, due = self.server.fault, self.server.left < 0
        if fault is None or not due:
            self.give(found)
            return
        self.server.fault = None
        with suppress(OSError):
            self.close_connection = not fault(self, found)

    do_POST = do_GET  # noqa: N815 - the library's name

    def give(self, answer: Answer, length: int | None = None) -> None:
        """Answer, with another length than the body's where one is given."""
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body) if length is None else length))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _asked(self, sent: bytes) -> Answer:
        to = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        to.request(self.command, self.path, sent or None, headers)
        got = to.getresponse()
        made = Answer(got.status, got.headers.get("Content-Type", ""), got.read())
        to.close()
        return made


@dataclass
class _House:
    """What a job needs."""

    settings: Settings
    engines: Engines
    folder: Path

    def perform(self, study: str, job: str) -> Done:
        asked: dict[str, Any] = {"server": "main", "store": "main", "study": study}
        asked |= {"series": None, "rules": True, "options": _OPTIONS.to_json()}
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        record = Job(job, "dicomweb", asked, "local", 10, State.RUNNING, 0.0)
        task = Task(record, folder, self.settings, self.engines, lambda *_: None)
        done = perform_dicomweb(task)
        return Done(list(done.files), done.report)


def trial(folder: Path, times: int, seed: int, kinds: Sequence[Misbehave] = ()) -> Row:
    """So many jobs with a fault in each.

    Args:
        folder: for the archive, its proxy and the jobs; made.
        times: jobs.
        seed: of what goes wrong, and where.
        kinds: of faults, in turns; all there are by default.
    """
    kinds = kinds or KINDS
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    slowest = 0.0
    with orthanc(folder / "orthanc") as pacs, _proxy(pacs.port) as proxy:
        house = _house(folder, proxy)
        for number in range(times):
            kind = kinds[number % len(kinds)]
            study = generate_uid()
            pacs.send(write_boxes(folder / str(number), study)[1])
            proxy.left, proxy.fault = chance.randrange(_REQUESTS), kind
            began = time.monotonic()
            ended, job = "", uuid.UUID(int=chance.getrandbits(128)).hex
            ended = _ended(house, study, job)
            seconds = time.monotonic() - began
            slowest = max(slowest, seconds)
            proxy.fault = None
            if seconds > _BOUND_S:
                ended = "! too late"
            elif not ended.startswith("!") and not _whole(house, pacs, study, job):
                ended = "! not right when tried again"
            found[ended] += 1
    lost = sum(n for what, n in found.items() if what.startswith("!"))
    told = ", ".join(f"{n} {what}" for what, n in sorted(found.items()))
    return Row("an archive that misbehaves", times, times - lost, lost, f"{told}; {slowest:.0f} s")


def _ended(house: _House, study: str, job: str) -> str:
    try:
        house.perform(study, job)
    except IsletError as error:
        return error.code
    except Exception as error:  # noqa: BLE001 - what has no code is what is looked for
        return f"! {type(error).__name__}"
    return "right at once"


def _whole(house: _House, pacs: Orthanc, study: str, job: str) -> bool:
    """Whether the same job, tried again, leaves each object in the archive once."""
    house.perform(study, job)
    held = pacs.results(study)
    return sorted(len(objects) for objects in held.values()) == [1] * _OBJECTS


def _house(folder: Path, proxy: _Proxy) -> _House:
    store = Store(folder / "store", behind=())
    publish(store, folder)
    path = folder / "pacs.toml"
    url = f"http://127.0.0.1:{proxy.server_address[1]}/dicom-web"
    limits = f"timeout_s = {_TIMEOUT_S}\ntransfer_s = {_TRANSFER_S}\n"
    path.write_text(f'[servers.main]\nurl = "{url}"\n{limits}')
    return _House(Settings(device="cpu", pacs=path), Engines(store, 1), folder)


@contextmanager
def _proxy(behind: int) -> Iterator[_Proxy]:
    with _Proxy(("127.0.0.1", 0), _Relay) as proxy:
        proxy.behind, proxy.left, proxy.fault = behind, 0, None
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        yield proxy
        proxy.shutdown()


def _late(relay: _Relay, answer: Answer) -> bool:
    time.sleep(_TRANSFER_S + 2)
    relay.give(answer)
    return True


def _never(_: _Relay, __: Answer) -> bool:
    time.sleep(2 * _TRANSFER_S)
    return False


def half(relay: _Relay, answer: Answer) -> bool:
    """Breaks off in the middle."""
    cut = Answer(answer.status, answer.kind, answer.body[: len(answer.body) // 2])
    relay.give(cut, len(answer.body))
    return False


def _half_and_says_so(relay: _Relay, answer: Answer) -> bool:
    relay.give(Answer(answer.status, answer.kind, answer.body[: len(answer.body) // 2]))
    return True


def nothing(relay: _Relay, answer: Answer) -> bool:
    """An answer without a body."""
    relay.give(Answer(200, answer.kind, b""))
    return True


def _page(relay: _Relay, _: Answer) -> bool:
    relay.give(Answer(200, "text/html", b"<html><body>Please log in</body></html>"))
    return True


def garbled(relay: _Relay, answer: Answer) -> bool:
    """Pixels come through changed without a sign: only what is no longer DICOM or JSON is."""
    body = bytearray(answer.body)
    body[: len(body) // 3] = random.Random(len(body)).randbytes(len(body) // 3)
    relay.give(Answer(answer.status, answer.kind, bytes(body)))
    return True


def _breaks(relay: _Relay, _: Answer) -> bool:
    relay.give(Answer(500, "text/plain", b"internal"))
    return True


def _busy(relay: _Relay, _: Answer) -> bool:
    relay.give(Answer(503, "text/plain", b"busy"))
    return True


def _empty_list(relay: _Relay, _: Answer) -> bool:
    relay.give(Answer(200, "application/dicom+json", json.dumps([{}]).encode()))
    return True


def hangs_up(_: _Relay, __: Answer) -> bool:
    """No answer at all."""
    return False


KINDS: Sequence[Misbehave] = (
    _late,
    _never,
    half,
    _half_and_says_so,
    nothing,
    _page,
    garbled,
    _breaks,
    _busy,
    _empty_list,
    hangs_up,
)
