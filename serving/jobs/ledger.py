"""Every change of a job's record, each one transaction that holds under any number of processes.

A job waits (queued), is claimed by one worker under a lease, and ends once. What a worker writes
counts only while the claim is its own, so that of two workers that believe to have a job one alone
can end it. A transaction that may end jobs adds to the mark of endings first: all of them take
their locks in one order, and jobs are numbered as their ends become visible.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Update,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from imaging.errors import KeyReused, ServiceBusy, WorkerLost
from serving.jobs.record import ENDED, Job, State
from serving.jobs.tables import ARRIVED, ENDED_MARK, JOBS, MARKS, Records

# A worker that is silent that long has lost its job.
LEASE_S = 10.0
# A job whose worker was lost that often is not tried again: it may be what kills them.
LOSSES = 3

# Points of priority from one level to the next.
_LEVEL = 10

FIELDS = tuple(JOBS.c[field.name] for field in fields(Job))
_ENDED = tuple(sorted(ENDED))


@dataclass(frozen=True)
class Order:
    """What a caller submits; the attributes are those of ``Jobs.submit``."""

    kind: str
    request: dict[str, Any]
    owner: str
    priority: int
    key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a job: valid while nobody else claimed it since.

    Attributes:
        job: its record at the claim.
        worker: who holds it.
    """

    job: Job
    worker: str

    @property
    def _held(self) -> ColumnElement[bool]:
        return and_(
            JOBS.c.id == self.job.id,
            JOBS.c.state == State.RUNNING,
            JOBS.c.worker == self.worker,
            JOBS.c.attempts == self.job.attempts,
        )


class Ledger:
    """The jobs' records.

    Args:
        records: the database.
        most: jobs that may wait.
    """

    def __init__(self, records: Records, most: int) -> None:
        self._records, self._most = records, most

    # What callers do.

    def earlier(self, order: Order) -> Job | None:
        """The job that came with the order's key before.

        Raises:
            KeyReused: it was another request.
        """
        with self._records.read() as connection:
            return _earlier(connection, order)

    def submit(self, order: Order, id: str, wait_s: int) -> tuple[Job, float | None]:
        """Write a new job down, or find the one that came with the same key.

        Args:
            order: what to do.
            id: of the new job.
            wait_s: told to the caller when as many wait as may.

        Returns:
            The job and its :func:`turn`; ``None`` for one that came before.

        Raises:
            KeyReused: the key came with another request.
            ServiceBusy: as many jobs wait as may.
        """
        with self._records.write() as connection:
            arrival = _next(connection, ARRIVED)
            job = _earlier(connection, order)
            if job is not None:
                return job, None
            check_room(waiting(connection), self._most, wait_s)
            row = connection.execute(
                insert(JOBS)
                .values(
                    id=id,
                    arrival=arrival,
                    kind=order.kind,
                    request=order.request,
                    owner=order.owner,
                    key=order.key,
                    fingerprint=order.fingerprint,
                    priority=order.priority,
                    state=State.QUEUED,
                    created=self._records.now(),
                )
                .returning(*FIELDS)
            ).one()
        return job_of(row), turn(order.priority, arrival, self._most)

    def cancel(self, id: str, forget: bool = False) -> None:
        """End a job that waits; tell the worker of one that runs.

        Args:
            id: of a job; an unknown one, or one that ended, is left alone.
            forget: and delete it once it ended, also where it did before.
        """
        with self._records.write() as connection:
            values = {"forget": True} if forget else {}
            waits = and_(JOBS.c.id == id, JOBS.c.state == State.QUEUED)
            self._end(connection, waits, {**values, "state": State.CANCELLED})
            runs = and_(JOBS.c.id == id, JOBS.c.state == State.RUNNING)
            connection.execute(update(JOBS).where(runs).values(**values, cancelling=True))
            if forget:
                connection.execute(update(JOBS).where(JOBS.c.id == id).values(forget=True))

    # What workers do.

    def claim(self, id: str, worker: str) -> Claim | None:
        """Take a job that waits; ``None`` when it does not, or not any more."""
        change = (
            update(JOBS)
            .where(JOBS.c.id == id, JOBS.c.state == State.QUEUED)
            .values(
                state=State.RUNNING,
                worker=worker,
                lease=self._records.steady() + LEASE_S,
                started=self._records.now(),
                attempts=JOBS.c.attempts + 1,
                step=None,
                part=0.0,
            )
            .returning(*FIELDS)
        )
        with self._records.write() as connection:
            row = connection.execute(change).one_or_none()
        return None if row is None else Claim(job_of(row), worker)

    def beat(self, claim: Claim, step: str | None, part: float) -> bool | None:
        """Renew the lease and write down how far the work is.

        Returns:
            Whether the job was cancelled; ``None`` when it is the worker's no more.
        """
        change = (
            update(JOBS)
            .where(claim._held)
            .values(lease=self._records.steady() + LEASE_S, step=step, part=part)
            .returning(JOBS.c.cancelling)
        )
        with self._records.write() as connection:
            return connection.execute(change).scalar_one_or_none()

    def look(self, claim: Claim) -> bool | None:
        """What :meth:`beat` returns, without writing."""
        with self._records.read() as connection:
            return connection.execute(
                select(JOBS.c.cancelling).where(claim._held)
            ).scalar_one_or_none()

    def finish(self, claim: Claim, result: dict[str, Any]) -> bool:
        """Publish a result.

        Returns:
            Whether it counts; not when the claim was lost or the job cancelled.
        """
        sha256 = result["report"].get("model", {}).get("sha256")
        values = {"state": State.DONE, "result": result, "model": sha256}
        with self._records.write() as connection:
            held = and_(claim._held, JOBS.c.cancelling.is_(False))
            return self._end(connection, held, values) > 0

    def fail(self, claim: Claim, error: dict[str, Any]) -> bool:
        """End a job with ``IsletError.as_dict`` of what went wrong, or as cancelled if it was.

        Returns:
            Whether the claim still held.
        """
        with self._records.write() as connection:
            told = and_(claim._held, JOBS.c.cancelling.is_(True))
            ended = self._end(connection, told, {"state": State.CANCELLED})
            ended += self._end(connection, claim._held, {"state": State.FAILED, "error": error})
            return ended > 0

    def give_back(self, claim: Claim) -> None:
        """Let another worker have the job, which counts as no loss."""
        with self._records.write() as connection:
            told = and_(claim._held, JOBS.c.cancelling.is_(True))
            self._end(connection, told, {"state": State.CANCELLED})
            connection.execute(_again(claim._held))

    # What everybody does every few seconds.

    def lapse(self, gone: Collection[str] = ()) -> None:
        """Take the jobs of lost workers back: to be tried again, or to end.

        Args:
            gone: workers that are known to be dead; of the others the lease decides.
        """
        lost = and_(
            JOBS.c.state == State.RUNNING,
            or_(JOBS.c.worker.in_(gone), JOBS.c.lease < self._records.steady()),
        )
        with self._records.read() as connection:
            if connection.execute(select(JOBS.c.id).where(lost).limit(1)).first() is None:
                return
        error = WorkerLost(
            f"{LOSSES} workers were lost while they had this job; it is not tried again. The log "
            "of the service says how they ended.",
            attempts=LOSSES,
        )
        failed = {"state": State.FAILED, "error": error.as_dict(), "losses": LOSSES}
        with self._records.write() as connection:
            self._end(connection, and_(lost, JOBS.c.cancelling), {"state": State.CANCELLED})
            self._end(connection, and_(lost, JOBS.c.losses >= LOSSES - 1), failed)
            connection.execute(_again(lost).values(losses=JOBS.c.losses + 1))

    def clear(self, id: str) -> None:
        """Note that a job's input and scratch are gone."""
        with self._records.write() as connection:
            connection.execute(update(JOBS).where(JOBS.c.id == id).values(cleared=True))

    def forget(self, id: str) -> None:
        """Delete the record of a job that ended."""
        with self._records.write() as connection:
            ended = JOBS.c.state.in_(_ENDED)
            connection.execute(delete(JOBS).where(JOBS.c.id == id, ended))

    def _end(
        self, connection: Connection, where: ColumnElement[bool], values: dict[str, Any]
    ) -> int:
        """End the jobs that fit; returns how many."""
        _hold(connection, ENDED_MARK)
        ended = 0
        for id in connection.scalars(select(JOBS.c.id).where(where)).all():
            change = update(JOBS).where(where, JOBS.c.id == id).values(**values, worker=None)
            number = _next(connection, ENDED_MARK)
            done = connection.execute(change.values(ended=self._records.now(), ending=number))
            ended += done.rowcount
        return ended


def check_room(found: int, most: int, wait_s: int) -> None:
    """Raise ``ServiceBusy`` when as many jobs wait as may."""
    if found >= most:
        raise ServiceBusy(
            f"{found} jobs wait, as many as this service takes; try again in {wait_s} s.",
            retry_after_s=wait_s,
        )


def turn(priority: int, arrival: int, most: int) -> float:
    """Order of jobs that wait, the largest first: by priority, equal ones by arrival.

    However many jobs of higher priority come, no more of them than may wait at all go past one that
    waits, for each level between them: none waits longer than a few full queues take. A job that
    comes back keeps its place. Exact for 2**49 jobs.

    Args:
        priority: of the job.
        arrival: its number.
        most: jobs that may wait.
    """
    return float(most * priority - _LEVEL * arrival)


def _hold(connection: Connection, mark: str) -> None:
    """Let nobody else add to a mark until the transaction ends."""
    change = update(MARKS).where(MARKS.c.name == mark).values(value=MARKS.c.value)
    connection.execute(change)


def _next(connection: Connection, mark: str) -> int:
    """Add one to a mark, and hold it until the transaction ends."""
    change = update(MARKS).where(MARKS.c.name == mark).values(value=MARKS.c.value + 1)
    return int(connection.execute(change.returning(MARKS.c.value)).scalar_one())


def _earlier(connection: Connection, order: Order) -> Job | None:
    if order.key is None:
        return None
    same = select(JOBS.c.fingerprint, *FIELDS).where(
        JOBS.c.owner == order.owner, JOBS.c.key == order.key
    )
    row = connection.execute(same).one_or_none()
    if row is None:
        return None
    if row.fingerprint != order.fingerprint:
        raise KeyReused(
            "The idempotency key came with another request before; send a new key with a new "
            "request."
        )
    return job_of(row)


def waiting(connection: Connection) -> int:
    """How many jobs wait."""
    query = select(func.count()).select_from(JOBS).where(JOBS.c.state == State.QUEUED)
    return int(connection.execute(query).scalar_one())


def _again(where: ColumnElement[bool]) -> Update:
    """Put jobs that run back among those that wait."""
    return (
        update(JOBS)
        .where(where)
        .values(state=State.QUEUED, worker=None, lease=None, started=None, step=None, part=0.0)
    )


def job_of(row: Row[Any]) -> Job:
    """A row of ``FIELDS`` as a job."""
    found = {field.name: getattr(row, field.name) for field in fields(Job)}
    return Job(**{**found, "state": State(found["state"])})
