"""Processes that outlive their use: the child of a dead parent, the second worker of one job.

NVIDIA FLARE ends a job process some time after its parent has gone, if the job lets it; until then
two processes would train one job.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ProcessType
from nvflare.apis.fl_context import FLContext

from imaging.errors import FederationError

_POLL_S = 0.5


class Guard(FLComponent):  # type: ignore[misc]
    """Ends the process it lives in when the process that started it is gone.

    Every kit's ``resources.json`` names it, so that it lives in the engine's own processes, which
    a supervisor starts, and in the job processes, which the engine starts. A site that is told to
    end says so to its server first.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parent = os.getppid()
        self._watching = False

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Start watching with the first sign of life, which differs between the processes."""
        if event_type == EventType.SYSTEM_START and _is_site(fl_ctx):
            # Without a word the server would wait a minute for a site that was told to end.
            leave = fl_ctx.get_engine().shutdown
            signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=leave).start())
        if not self._watching:
            self._watching = True
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(_POLL_S)
        # Nobody is left to be told; what a job must keep is on disk after every step.
        os._exit(1)


def _is_site(fl_ctx: FLContext) -> bool:
    return bool(fl_ctx.get_prop(FLContextKey.PROCESS_TYPE) == ProcessType.CLIENT_PARENT)


@contextmanager
def held(folder: Path, seconds: float = 0.0) -> Iterator[None]:
    """A folder that one process works in at a time; it is made where it is missing.

    Args:
        folder: of a kit or of a job's state.
        seconds: how long another one is given to end.

    Raises:
        FederationError: another process still works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with (folder / ".lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise FederationError(
                        f"Another process works in {folder.name}; stop it first."
                    ) from None
                time.sleep(_POLL_S)
        yield
