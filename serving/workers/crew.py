"""Keeps worker processes alive."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from imaging.errors import IsletError
from serving.jobs.parts import Parts
from serving.jobs.tidy import bury
from serving.settings import Settings

logger = logging.getLogger("islet.jobs")

_ROOT = Path(__file__).resolve().parents[2]
_LOOK_S = 0.1
_STOP_WITHIN_S = 5.0
# A worker that ended sooner than that is started again later and later.
_STEADY_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
# Silent workers are looked for that often, and ended when that many looks found them so.
_LISTEN_S = 5.0
_SILENCES = 2


class Crew:
    """The worker processes of this host, ``settings.workers`` of them.

    One that dies is started again, and the job it had is given back at once; one that is silent
    is ended. They end with this process, even when that is killed.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._parts: Parts | None = None

    def start(self) -> None:
        """Start the workers; returns before they are ready.

        Raises:
            BadParameter, RecordsAway, ServiceFailed: see ``Parts.open``.
        """
        self._parts = Parts.open(self._settings)
        self._stopping.clear()
        keepers = [
            _Keeper(self._settings, self._parts, self._stopping)
            for _ in range(self._settings.workers)
        ]
        self._threads = [
            threading.Thread(target=k.run, name="keeper", daemon=True) for k in keepers
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the workers; jobs they had go back to the queue."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self._parts is not None:
            self._parts.close()
            self._parts = None


class _Keeper:
    """Keeps one worker alive, process after process."""

    def __init__(self, settings: Settings, parts: Parts, stopping: threading.Event) -> None:
        self._settings = settings
        self._parts = parts
        self._stopping = stopping

    def run(self) -> None:
        """Until told to stop."""
        pause = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._one()
            except OSError as error:
                # No memory or no room for a further process: there may be some later.
                logger.error("a worker cannot be started: %s", type(error).__name__)
            steady = time.monotonic() - began > _STEADY_S
            pause = _FIRST_PAUSE_S if steady else min(2 * pause, _LONGEST_PAUSE_S)
            if not steady:
                self._stopping.wait(pause)

    def _one(self) -> None:
        """One process from its start to its end."""
        worker = uuid.uuid4().hex
        process = _start(worker, self._settings)
        try:
            self._watch(process, worker)
        finally:
            _stop(process)
        if not self._stopping.is_set():
            logger.warning("a worker ended with exit code %s", process.returncode)
        try:
            bury(self._parts, [worker])
        except IsletError as error:
            # ``tidy`` finds the process gone.
            logger.warning("the records do not answer: %s", error.code)

    def _watch(self, process: subprocess.Popen[bytes], worker: str) -> None:
        """Return when a worker ended, has to, or is silent though it was heard before."""
        heard, silences, listened = False, 0, time.monotonic()
        while process.poll() is None and not self._stopping.wait(_LOOK_S):
            if time.monotonic() - listened < _LISTEN_S:
                continue
            listened = time.monotonic()
            try:
                found = any(row["id"] == worker for row in self._parts.roll.live())
            except IsletError:
                continue
            heard = heard or found
            silences = 0 if found else silences + 1
            if heard and silences >= _SILENCES:
                logger.error("a worker is silent; its process is ended")
                process.kill()
                return


def _start(worker: str, settings: Settings) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.workers.worker"],
        stdin=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    # A worker that is already dead is seen by who waits for it.
    with suppress(BrokenPipeError):
        assert process.stdin is not None
        process.stdin.write(f"{worker}\n{settings.to_json()}\n".encode())
        process.stdin.flush()
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process: by the end of its input, then for certain."""
    with suppress(BrokenPipeError):
        assert process.stdin is not None
        process.stdin.close()
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
