"""The only door to the jobs: submit, look, cancel, fetch.

Every call blocks for a moment on the disk or the database; an event loop calls from threads.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from imaging.errors import Cancelled, IsletError, JobNotFound, JobUnfinished, RecordsAway
from serving.jobs.estimate import Habit, habit, left_s
from serving.jobs.failures import of_disk, raised
from serving.jobs.ledger import Order, check_room
from serving.jobs.parts import Parts
from serving.jobs.queue import QUEUE_ERRORS
from serving.jobs.record import ENDED, Job, State
from serving.jobs.tidy import tidy
from serving.settings import Settings

logger = logging.getLogger("islet.jobs")

# Inside the class ``list`` is a method.
Found = list[Job]
Workers = list[dict[str, Any]]

# What recent jobs took is looked up that often, over that many.
_HABIT_S = 5.0
_RECENT = 20
# Who is refused is told to come back after that long when no job has ended yet, and at most.
_UNKNOWN_S = 5
_LONGEST_S = 60


class Jobs:
    """The jobs of a service: its records, its queue and the files of its spool.

    Safe to use from many threads, and from many processes and hosts over one spool and database.

    Args:
        settings: the spool, the database and the limits.

    Raises:
        BadParameter: the spool cannot be used.
        ServiceFailed: the records are another version's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts = Parts.open(settings)
        self._habits: dict[str, tuple[float, Habit | None]] = {}

    def close(self) -> None:
        """Close every connection."""
        self._parts.close()

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """An empty folder to receive an upload; removed when the block ends unless ``submit`` took
        it.

        Raises:
            DiskFull, DiskReadOnly: the block or the folder could not be written.
        """
        with _named_disk(), self._parts.spool.staged() as folder:
            yield folder

    def submit(
        self,
        kind: str,
        request: dict[str, Any],
        owner: str,
        folder: Path | None,
        priority: int = 10,
        key: str | None = None,
        fingerprint: str = "",
    ) -> Job:
        """Accept a job; it survives a loss of power once this returns.

        Args:
            kind: name in ``serving.workers.work.KINDS``.
            request: what to do; JSON-serialisable.
            owner: subject of the token that asks.
            folder: of :meth:`staged`, with the upload; ``None`` when there is none.
            priority: higher ones start first, within ``ledger.turn``'s bounds.
            key: idempotency key: the job that this owner submitted with it is given back.
            fingerprint: of the whole request, to tell a repeated one from another.

        Raises:
            ServiceBusy: as many jobs wait as may.
            KeyReused: the key came with another fingerprint.
            DiskFull, DiskReadOnly: it cannot be written.
        """
        hidden = None if key is None else _hidden(key)
        order = Order(kind, request, owner, priority, hidden, fingerprint)
        known = self._parts.ledger.earlier(order)
        if known is not None:
            return known
        self.room()
        id = uuid.uuid4().hex
        try:
            with _named_disk():
                self._parts.spool.take(id, folder)
                wait_s = self._wait_s()
                job, turn = self._parts.ledger.submit(order, id, wait_s)
        except IsletError:
            self._unless_written(id)
            raise
        if turn is None:
            self._parts.spool.remove(id)
        else:
            self._enqueue(id, turn)
        return job

    def room(self) -> None:
        """Raise ``ServiceBusy`` when as many jobs wait as may."""
        check_room(self._parts.catalogue.waiting(), self._settings.queue, self._wait_s())

    def get(self, id: str, owner: str | None = None) -> Job:
        """One job.

        Args:
            id: of the job.
            owner: whose it must be; ``None`` sees all.

        Raises:
            JobNotFound: there is none, or it is another's.
        """
        job = self._parts.catalogue.find(id)
        if job is None or owner not in (None, job.owner):
            raise _no_job(id)
        return job

    def list(self, owner: str | None = None, state: State | None = None, limit: int = 100) -> Found:
        """Jobs, the last that arrived first; ``None`` means of any owner, in any state."""
        return self._parts.catalogue.newest(owner, state, limit)

    def place(self, job: Job) -> int | None:
        """A waiting job's place in the queue, 1 for the next; ``None`` once it runs."""
        turns = list(self._parts.catalogue.queued())
        return turns.index(job.id) + 1 if job.id in turns else None

    def eta_s(self, job: Job) -> float | None:
        """Seconds until a job ends, by what the last ones took; ``None`` when nobody can tell."""
        workers = len(self.workers())
        known = self._habit(job.kind)
        if job.state in ENDED or known is None or not workers:
            return None
        ahead = (self.place(job) or 1) - 1
        running = self._parts.catalogue.running()
        return left_s(job, known, ahead, running, workers, self._parts.catalogue.now())

    def cancel(self, id: str, owner: str | None = None) -> Job:
        """Cancel a job: at once while it waits; one that runs is told to stop and does in seconds.

        One that has ended stays as it is.

        Raises:
            JobNotFound: there is none, or it is another's.
        """
        self.get(id, owner)
        self._parts.ledger.cancel(id)
        return self.get(id, owner)

    def delete(self, id: str, owner: str | None = None) -> None:
        """Cancel a job where it has not ended, and forget it and its files once it has.

        Raises:
            JobNotFound: there is none, or it is another's.
        """
        self.get(id, owner)
        self._parts.ledger.cancel(id, forget=True)
        job = self._parts.catalogue.find(id)
        if job is not None and job.state in ENDED:
            self._parts.ledger.forget(id)
            self._parts.spool.remove(id)

    def result(self, job: Job) -> Path:
        """The file of all that a job gave, a zip.

        Raises:
            JobUnfinished: it has not ended.
            Cancelled: it was cancelled.
            JobNotFound: it was cleaned up.
            IsletError: the job's own error, when it failed.
        """
        if job.state not in ENDED:
            raise JobUnfinished(
                f"Job {job.id} is {job.state}; its result is there once it is done.",
                state=job.state,
            )
        if job.state is State.CANCELLED:
            raise Cancelled(f"Job {job.id} was cancelled; it has no result. Submit it again.")
        if job.error is not None:
            raise raised(job.error)
        path = self._parts.spool.result(job)
        if not path.is_file():
            raise _no_job(job.id)
        return path

    def counts(self) -> dict[State, int]:
        """Jobs in each state."""
        return self._parts.catalogue.counts()

    def ended_since(self, mark: int | None) -> tuple[Found, int]:
        """Jobs that ended after a mark, in that order, and the next mark.

        Every job that ends comes once to whoever goes from mark to mark, unless it is deleted
        before. ``None`` gives the mark of this moment and no jobs.
        """
        if mark is None:
            return [], self._parts.catalogue.mark()
        return self._parts.catalogue.ended_after(mark)

    def ready(self) -> bool:
        """Whether some worker lives and has loaded the default model."""
        return any(worker["ready"] for worker in self.workers())

    def workers(self) -> Workers:
        """The workers that live, on all hosts: ``id``, ``host``, ``pid``, ``ready``, ``models``,
        ``memory_mb``, ``error`` (why it is not ready), ``seen``."""
        return self._parts.roll.live()

    def tidy(self) -> None:
        """Take back what lost workers had, and remove what is over; to be called every few seconds
        by somebody."""
        tidy(self._parts, self._settings.keep_hours)

    def _unless_written(self, id: str) -> None:
        """Remove the files of a job that was refused.

        A database that went away in the last moment may have taken it; then they stay.
        """
        with suppress(RecordsAway):
            if self._parts.catalogue.find(id) is None:
                self._parts.spool.remove(id)

    def _enqueue(self, id: str, turn: float) -> None:
        try:
            self._parts.queue.put(id, turn)
        except QUEUE_ERRORS as error:
            # The job is accepted all the same: ``tidy`` queues what waits.
            logger.warning("job %s is not queued yet: %s", id, type(error).__name__)

    def _habit(self, kind: str) -> Habit | None:
        now = time.monotonic()
        made, found = self._habits.get(kind, (-_HABIT_S, None))
        if now - made >= _HABIT_S:
            found = habit(self._parts.catalogue.recent(kind, _RECENT))
            self._habits[kind] = (now, found)
        return found

    def _wait_s(self) -> int:
        """Seconds until somebody who is refused may find room."""
        known = self._habit("segment")
        if known is None:
            return _UNKNOWN_S
        each = known.total / max(1, len(self.workers()))
        return max(1, min(_LONGEST_S, math.ceil(each)))


def _hidden(key: str) -> str:
    """A key as it is kept: clients take UIDs and accession numbers for keys."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


@contextmanager
def _named_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        named = of_disk(error)
        if named is None:
            raise
        raise named from error


def _no_job(id: str) -> JobNotFound:
    return JobNotFound(
        f"There is no job {id[:64]!r}, or its result was cleaned up; submit it again.", id=id[:64]
    )
