"""A service with all of its processes, to be flooded, stopped, killed and started again."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from imaging.limits import MIB
from models.store import Store
from serving.process import free_port, serve_command, serve_environment
from tests.serving.tiny_model import publish

# What a client meets while the service is down or going down.
BROKEN = (urllib.error.URLError, http.client.HTTPException, OSError)
WORKER = "serving.workers.worker"

_BACK_WITHIN_S = 300.0
_ANSWERED_WITHIN_S = 600.0


@dataclass
class Tree:
    """A service on a loopback port; every start has the same port and spool.

    Attributes:
        environment: of its processes.
        port: it listens at.
        log: file of what it prints.
        process: the first one; the others are its children.
    """

    environment: dict[str, str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def spool(self) -> Path:
        """The folder of its jobs."""
        return Path(self.environment["ISLET_SPOOL"])

    def start(self) -> None:
        """Start it; returns before it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                serve_command("127.0.0.1", self.port),
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL all of it, as a machine that goes down does; children have their own sessions."""
        family = self.family()
        self.signal(signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(family, timeout=10)

    def kill_and_start(self, what: str) -> None:
        """SIGKILL the whole ``service``, its ``supervisor`` or its ``workers``; serve again."""
        if what == "workers":
            self.signal(signal.SIGKILL, self.workers())
            return
        if what == "supervisor":
            # What it started has to notice and make room at the port.
            self.process.kill()
            self.process.wait()
        else:
            self.kill()
        self.start()

    def family(self) -> list[psutil.Process]:
        """All processes, the first one first."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """Those that segment."""
        return [one for one in self.family() if WORKER in _command(one)]

    def signal(self, number: int, processes: list[psutil.Process] | None = None) -> None:
        """Send a signal to some of its processes, or to all."""
        for one in self.family() if processes is None else processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def memory_mb(self) -> float:
        """What its processes hold, shared pages shared out."""
        held = 0
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                held += one.memory_full_info().pss
        return held / MIB

    def sockets(self) -> int:
        """Connections that its processes hold, those to each other included."""
        found = 0
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += sum(c.status != psutil.CONN_LISTEN for c in one.net_connections("tcp"))
        return found

    def files(self) -> set[str]:
        """What lies in its spool beside the records, by path."""
        folders = (self.spool / "staging", self.spool / "jobs")
        return {str(p.relative_to(self.spool)) for f in folders for p in f.rglob("*")}

    def listed(self, state: str | None = None) -> list[dict[str, Any]]:
        """The jobs that it has on record, in a state or all."""
        asked = f"/jobs?limit=1000&state={state}" if state else "/jobs?limit=1000"
        found: list[dict[str, Any]] = json.loads(self.ask(asked)[1])["jobs"]
        return found

    def forget(self, job: str) -> None:
        """Delete a job and its files."""
        request = urllib.request.Request(f"{self.url}/v1/jobs/{job}", method="DELETE")
        urllib.request.urlopen(request, timeout=_ANSWERED_WITHIN_S).close()

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of an answer, sooner or later: what breaks off is asked again.

        Args:
            path: below ``/v1``.
            body: to be posted.
            headers: of the request.

        Raises:
            TimeoutError: it does not come back within minutes.
        """
        deadline = time.monotonic() + _BACK_WITHIN_S
        while True:
            try:
                return self.ask_once(path, body, headers)
            except BROKEN as error:
                if time.monotonic() > deadline:
                    raise TimeoutError("the service does not come back") from error
                time.sleep(0.1)

    def ask_once(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """An answer to a request that is sent once; see :meth:`ask`."""
        request = urllib.request.Request(f"{self.url}/v1{path}", body, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=_ANSWERED_WITHIN_S) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def await_ready(self) -> None:
        """Return once a worker has loaded the default model.

        Raises:
            TimeoutError: none did within minutes.
        """
        until(self._ready, _BACK_WITHIN_S)

    def _ready(self) -> bool:
        with contextlib.suppress(*BROKEN), urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
            return True
        return False


@contextlib.contextmanager
def tree(folder: Path, **environment: str) -> Iterator[Tree]:
    """A service with a tiny model of its own, ready, and killed when the block ends.

    Args:
        folder: for its store, spool and log.
        environment: further variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder / "store", behind=())
    publish(store, folder)
    own = {"ISLET_STORE": str(store.root), "ISLET_SPOOL": str(folder / "spool")}
    made = Tree(
        serve_environment({**os.environ, **own, **environment}), free_port(), folder / "log"
    )
    made.start()
    try:
        made.await_ready()
        yield made
    finally:
        made.kill()


def until(condition: Any, seconds: float) -> None:
    """Wait for a condition to become true.

    Raises:
        TimeoutError: it did not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come about in time")
        time.sleep(0.02)


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
