"""Every question about the jobs' records; nothing is changed and nothing is locked."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, or_, select

from serving.jobs.ledger import FIELDS, job_of, turn, waiting
from serving.jobs.record import ENDED, Job, State
from serving.jobs.tables import ENDED_MARK, JOBS, MARKS, Records

_ENDED = tuple(sorted(ENDED))


class Catalogue:
    """Reads the jobs' records.

    Args:
        records: the database.
        most: jobs that may wait.
    """

    def __init__(self, records: Records, most: int) -> None:
        self._records, self._most = records, most

    def find(self, id: str) -> Job | None:
        """One job."""
        return next(iter(self._jobs(JOBS.c.id == id)), None)

    def ids(self) -> set[str]:
        """Of every job."""
        with self._records.read() as connection:
            return set(connection.scalars(select(JOBS.c.id)))

    def newest(self, owner: str | None, state: State | None, limit: int) -> list[Job]:
        """Jobs, the last that arrived first; ``None`` means any."""
        query = select(*FIELDS).order_by(JOBS.c.arrival.desc()).limit(limit)
        if owner is not None:
            query = query.where(JOBS.c.owner == owner)
        if state is not None:
            query = query.where(JOBS.c.state == state)
        with self._records.read() as connection:
            return [job_of(row) for row in connection.execute(query)]

    def queued(self) -> dict[str, float]:
        """Every job that waits and its ``ledger.turn``, the next one first."""
        query = select(JOBS.c.id, JOBS.c.priority, JOBS.c.arrival)
        waits = query.where(JOBS.c.state == State.QUEUED).order_by(JOBS.c.arrival)
        with self._records.read() as connection:
            rows = connection.execute(waits).all()
        turns = {id: turn(priority, arrival, self._most) for id, priority, arrival in rows}
        return dict(sorted(turns.items(), key=lambda item: -item[1]))

    def running(self) -> list[Job]:
        """Jobs that a worker has."""
        return self._jobs(JOBS.c.state == State.RUNNING)

    def recent(self, kind: str, limit: int) -> list[Job]:
        """The last jobs of a kind that were done."""
        query = (
            select(*FIELDS)
            .where(JOBS.c.state == State.DONE, JOBS.c.kind == kind)
            .order_by(JOBS.c.ending.desc())
            .limit(limit)
        )
        with self._records.read() as connection:
            return [job_of(row) for row in connection.execute(query)]

    def counts(self) -> dict[State, int]:
        """Jobs in each state."""
        query = select(JOBS.c.state, func.count().label("jobs")).group_by(JOBS.c.state)
        with self._records.read() as connection:
            found = {row.state: row.jobs for row in connection.execute(query)}
        return {state: found.get(state, 0) for state in State}

    def waiting(self) -> int:
        """How many jobs wait."""
        with self._records.read() as connection:
            return waiting(connection)

    def ended_after(self, mark: int) -> tuple[list[Job], int]:
        """Jobs that ended after a mark, in that order, and the mark after the last of them."""
        query = select(JOBS.c.ending, *FIELDS).where(JOBS.c.ending > mark).order_by(JOBS.c.ending)
        with self._records.read() as connection:
            rows = connection.execute(query).all()
        return [job_of(row) for row in rows], max([mark, *(row.ending for row in rows)])

    def mark(self) -> int:
        """The mark after everything that has ended."""
        query = select(MARKS.c.value).where(MARKS.c.name == ENDED_MARK)
        with self._records.read() as connection:
            return int(connection.execute(query).scalar_one())

    def now(self) -> float:
        """Unix seconds by the clock of the records."""
        with self._records.read() as connection:
            return float(connection.execute(select(self._records.now())).scalar_one())

    def uncleared(self) -> list[Job]:
        """Jobs that ended and whose input and scratch may still be there."""
        return self._jobs(JOBS.c.state.in_(_ENDED), JOBS.c.cleared.is_(False))

    def overdue(self, keep_s: float) -> list[Job]:
        """Jobs that ended that long ago, or were to be forgotten."""
        old = JOBS.c.ended < self._records.now() - keep_s
        return self._jobs(JOBS.c.state.in_(_ENDED), or_(JOBS.c.forget, old))

    def _jobs(self, *where: ColumnElement[bool]) -> list[Job]:
        with self._records.read() as connection:
            return [job_of(row) for row in connection.execute(select(*FIELDS).where(*where))]
