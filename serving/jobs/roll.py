"""Who works: a row for every worker process, and how to tell that one is dead."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select, update

from serving.jobs.tables import WORKERS, Records

# A worker says that often that it lives, and is taken for dead after that long.
CALL_S = 2.0
SILENT_S = 10.0


@dataclass(frozen=True)
class Status:
    """What a worker says of itself.

    Attributes:
        ready: the default model is loaded.
        models: that are loaded (``Engines.loaded``).
        memory_mb: resident.
        error: why it is not ready.
    """

    ready: bool = False
    models: tuple[dict[str, Any], ...] = ()
    memory_mb: float = 0.0
    error: dict[str, Any] | None = None


class Roll:
    """The rows of the workers.

    Args:
        records: the database.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    def call(self, worker: str, status: Status) -> None:
        """Write down that this process lives and works as ``worker``."""
        said = {
            "host": socket.gethostname(),
            "place": place(),
            "pid": os.getpid(),
            "ready": status.ready,
            "models": list(status.models),
            "memory_mb": status.memory_mb,
            "error": status.error,
            "seen": self._records.steady(),
        }
        with self._records.write() as connection:
            change = update(WORKERS).where(WORKERS.c.id == worker).values(**said)
            if not connection.execute(change).rowcount:
                connection.execute(insert(WORKERS).values(id=worker, **said))

    def strike(self, worker: str) -> None:
        """Take a worker off the roll."""
        with self._records.write() as connection:
            connection.execute(delete(WORKERS).where(WORKERS.c.id == worker))

    def live(self) -> list[dict[str, Any]]:
        """Every worker that was heard of lately: ``id``, ``host``, ``pid``, ``ready``, ``models``,
        ``memory_mb``, ``error``, ``seen``."""
        names = ("id", "host", "pid", "ready", "models", "memory_mb", "error", "seen")
        query = (
            select(*(WORKERS.c[name] for name in names))
            .where(WORKERS.c.seen >= self._records.steady() - SILENT_S)
            .order_by(WORKERS.c.host, WORKERS.c.pid)
        )
        with self._records.read() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def dead(self) -> list[str]:
        """Workers that are silent for too long, or whose process on this machine is gone."""
        silent = WORKERS.c.seen < self._records.steady() - SILENT_S
        query = select(WORKERS.c.id, WORKERS.c.place, WORKERS.c.pid, silent)
        with self._records.read() as connection:
            rows = connection.execute(query).all()
        return [id for id, where, pid, quiet in rows if quiet or gone(where, pid)]


@cache
def place() -> str:
    """Names this machine, since it was started, and the container on it.

    Where two processes agree on it, each can tell by a process number whether the other lives.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot, space = socket.gethostname(), ""
    return hashlib.sha256(f"{boot} {space}".encode()).hexdigest()[:12]


def gone(where: str, pid: int) -> bool:
    """Whether a process is certainly dead; ``False`` where that cannot be told from here."""
    if where != place():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
