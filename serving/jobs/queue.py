"""Hands the ids of waiting jobs to workers: huey's storage, in a file or in PostgreSQL.

The records are the truth; an entry here is only a hint that a job waits. One that is lost is put
back by ``Jobs.tidy``, and one that comes twice is claimed once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sqlite3
import time
from pathlib import Path
from typing import Protocol

import psycopg
from huey.storage import PostgresStorage, SqliteStorage

logger = logging.getLogger("islet.jobs")

# What a storage raises when it cannot be reached.
QUEUE_ERRORS = (sqlite3.Error, psycopg.Error)

_NAME = "islet"
_BUSY_S = 10
# Of each thread's connection; the system keeps the pages as well.
_CACHE_MB = 1


class Queue(Protocol):
    """Ids in the order of their turn."""

    def put(self, id: str, turn: float) -> None:
        """Add a job; the highest ``turn`` (``ledger.turn``) goes first."""

    def take(self, wait_s: float) -> str | None:
        """Remove the next id; ``None`` when none came in time."""

    def entries(self) -> set[str]:
        """The ids in it."""

    def close(self) -> None:
        """Let go of files and connections."""


def open_queue(folder: Path, database: str | None) -> Queue:
    """The queue beside the records.

    Args:
        folder: of the embedded files.
        database: ``postgresql://...``, or ``None`` for files.
    """
    if database is not None:
        return _Shared(database)
    return _Embedded(folder)


class _Embedded:
    """A SQLite file, and a named pipe that wakes the workers of this machine.

    A byte in the pipe says that something was put; whoever waits reads it and looks. Bytes that
    nobody waits for cost one look too many, and no byte is needed for an id to be found.
    """

    def __init__(self, folder: Path) -> None:
        self._storage = _storage(folder / "queue.db")
        path = folder / "bell"
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Open for writing too, so that reading never meets the end of the file.
        self._bell = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def put(self, id: str, turn: float) -> None:
        self._storage.enqueue(id.encode(), turn)
        # When it is full, whoever waits has enough to wake up to.
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell, b"!")

    def take(self, wait_s: float) -> str | None:
        deadline = time.monotonic() + wait_s
        while (entry := self._storage.dequeue()) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._bell], [], [], left)[0]:
                return None
            # Another worker may have been quicker.
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 1)
        return bytes(entry).decode()

    def entries(self) -> set[str]:
        return {bytes(entry).decode() for entry in self._storage.enqueued_items()}

    def close(self) -> None:
        os.close(self._bell)
        self._storage.close()


def _storage(path: Path) -> SqliteStorage:
    """The file, made anew where it is damaged: what it held is in the records."""
    try:
        storage = SqliteStorage(_NAME, str(path), timeout=_BUSY_S, cache_mb=_CACHE_MB)
        (found,) = storage.sql("PRAGMA quick_check(1)", results=True)[0]
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found == "ok":
        return storage
    logger.warning("the queue is damaged and made anew")
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return SqliteStorage(_NAME, str(path), timeout=_BUSY_S, cache_mb=_CACHE_MB)


class _Shared:
    """A table in PostgreSQL; its notifications wake the workers of every machine."""

    def __init__(self, database: str) -> None:
        self._storage = PostgresStorage(_NAME, dsn=database, table_prefix=_NAME)

    def put(self, id: str, turn: float) -> None:
        self._storage.enqueue(id.encode(), turn)

    def take(self, wait_s: float) -> str | None:
        self._storage.read_timeout = wait_s
        entry = self._storage.dequeue()
        return None if entry is None else bytes(entry).decode()

    def entries(self) -> set[str]:
        return {bytes(entry).decode() for entry in self._storage.enqueued_items()}

    def close(self) -> None:
        self._storage.close()
