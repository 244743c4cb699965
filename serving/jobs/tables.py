"""The records' tables, in SQLite or PostgreSQL."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError

from imaging.errors import IsletError, RecordsAway, RecordsDamaged, ServiceFailed
from serving.jobs.failures import disk_full, disk_read_only

# Raised with every change of the tables.
LAYOUT = 1

# A write waits that long for other writers.
_BUSY_S = 10
# A connection's own cache; the system keeps the pages as well, once for all of them.
_CACHE_KIB = 256
# Told to callers when the database is away.
_AWAY_S = 5
# Any number that no other program locks in the same database.
_LOCK = 0x151E7
_PING = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

_METADATA = MetaData()

JOBS = Table(
    "islet_jobs",
    _METADATA,
    Column("id", String(32), primary_key=True),
    # Number in order of arrival.
    Column("arrival", BigInteger, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("request", JSON, nullable=False),
    Column("owner", Text, nullable=False),
    # SHA-256 of that owner's idempotency key, and what came with it.
    Column("key", Text),
    Column("fingerprint", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("ended", Double),
    # Number in order of ending.
    Column("ending", BigInteger),
    Column("attempts", Integer, nullable=False, default=0),
    # Attempts whose worker died or went silent.
    Column("losses", Integer, nullable=False, default=0),
    Column("step", Text),
    Column("part", Double, nullable=False, default=0.0),
    Column("model", String(64)),
    Column("result", JSON(none_as_null=True)),
    Column("error", JSON(none_as_null=True)),
    Column("cancelling", Boolean, nullable=False, default=False),
    # To be deleted as soon as it ended.
    Column("forget", Boolean, nullable=False, default=False),
    # Its input and scratch are gone.
    Column("cleared", Boolean, nullable=False, default=False),
    Column("worker", String(32)),
    # The worker must be heard of before then, by ``Records.steady``.
    Column("lease", Double),
    Index("islet_jobs_turn", "state", "priority", "arrival"),
    Index("islet_jobs_ending", "ending"),
    Index("islet_jobs_key", "owner", "key", unique=True),
)

WORKERS = Table(
    "islet_workers",
    _METADATA,
    Column("id", String(32), primary_key=True),
    Column("host", Text, nullable=False),
    # Of the machine and its container, since it was started; tells whether ``pid`` means anything.
    Column("place", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("ready", Boolean, nullable=False),
    Column("models", JSON, nullable=False),
    Column("memory_mb", Double, nullable=False),
    # Why it is not ready.
    Column("error", JSON(none_as_null=True)),
    # By ``Records.steady``.
    Column("seen", Double, nullable=False),
)

# Counters: how many jobs arrived and ended. Whoever adds to one holds its row until the end of the
# transaction, so numbers become visible in their order.
MARKS = Table(
    "islet_marks",
    _METADATA,
    Column("name", String(16), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

ARRIVED, ENDED_MARK, _LAYOUT_MARK, _BOOT_MARK = "arrived", "ended", "layout", "boot"
# Of the machine since it was started; its steady clock begins anew with each.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Records:
    """A database that holds the tables.

    Args:
        url: ``sqlite:///...`` or ``postgresql://...``.
        clock: Unix seconds for tests; ``None`` takes the one clock that all who share the database
            have: its own for PostgreSQL, the machine's for SQLite.

    Raises:
        ServiceFailed: the tables are another version's.
        RecordsDamaged: they cannot be read.
    """

    def __init__(self, url: str, clock: Any = None) -> None:
        self._clock = clock
        self._boot = _boot()
        self.embedded = url.startswith("sqlite:")
        self._engine = _sqlite(url) if self.embedded else _postgresql(url)
        try:
            with self.alone() as connection:
                _METADATA.create_all(connection)
                _check_layout(connection)
                if self.embedded:
                    _check_pages(connection)
                    _check_boot(connection, self._boot)
        except IsletError:
            self.close()
            raise

    def now(self) -> ColumnElement[float]:
        """The time, in SQL."""
        if self._clock is not None:
            return literal(self._clock(), Double)
        if self.embedded:
            return literal(time.time(), Double)
        return func.extract("epoch", func.clock_timestamp()).cast(Double)

    def steady(self) -> ColumnElement[float]:
        """Seconds that pass evenly for all who share the database, in SQL; for leases.

        On one machine whatever is done to its clock; PostgreSQL has no clock but the time.
        """
        if self.embedded and self._clock is None and self._boot is not None:
            return literal(time.monotonic(), Double)
        return self.now()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection whose every statement sees what is committed; takes no lock."""
        with _named_errors(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, on the disk itself when the block has ended.

        Raises:
            RecordsAway: the database cannot be reached or is kept busy; also from :meth:`read`.
            RecordsDamaged: what is in it cannot be read; also from :meth:`read`.
            DiskFull, DiskReadOnly: it cannot be written.
        """
        with _named_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A transaction in which no other process makes tables."""
        with self.write() as connection:
            if not self.embedded:
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _LOCK})
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        said = str(error.orig)
        if "disk is full" in said:
            raise disk_full() from error
        if "readonly database" in said:
            raise disk_read_only() from error
        if "decode" in said:
            raise _damaged() from error
        raise RecordsAway(
            f"The job records cannot be reached; try again in {_AWAY_S} s.",
            retry_after_s=_AWAY_S,
        ) from error
    except DatabaseError as error:
        if "malformed" in str(error.orig) or "not a database" in str(error.orig):
            raise _damaged() from error
        raise
    except ValueError as error:
        # What was read is no JSON, or no state that a job can be in.
        raise _damaged() from error


def _damaged() -> RecordsDamaged:
    return RecordsDamaged(
        "The job records are damaged: restore the folder records of the spool from a copy, or move "
        "it away to begin with none."
    )


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _BUSY_S}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def opened(connection: Any, _record: Any) -> None:
        # The driver would begin transactions late, as readers, which cannot wait for writers.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql(url: str) -> Engine:
    return create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1),
        connect_args=_PING,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _check_layout(connection: Connection) -> None:
    rows = connection.execute(select(MARKS.c.name, MARKS.c.value)).all()
    found = {row.name: row.value for row in rows}
    if not found:
        first = {ARRIVED: 0, ENDED_MARK: 0, _LAYOUT_MARK: LAYOUT}
        connection.execute(insert(MARKS), [{"name": n, "value": v} for n, v in first.items()])
    elif found[_LAYOUT_MARK] != LAYOUT:
        raise ServiceFailed(
            f"The job records have layout {found[_LAYOUT_MARK]}, this version reads {LAYOUT}; set "
            "ISLET_SPOOL or ISLET_DATABASE to an empty place.",
            found=found[_LAYOUT_MARK],
            known=LAYOUT,
        )


def _check_pages(connection: Connection) -> None:
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if found != "ok":
        raise _damaged()


def _check_boot(connection: Connection, boot: int | None) -> None:
    """Where the machine was started again, nobody who worked lives, and its clock began anew."""
    named = MARKS.c.name == _BOOT_MARK
    found = connection.execute(select(MARKS.c.value).where(named)).scalar_one_or_none()
    if boot is None or found == boot:
        return
    connection.execute(update(JOBS).where(JOBS.c.lease.is_not(None)).values(lease=0.0))
    connection.execute(update(WORKERS).values(seen=0.0))
    if found is None:
        connection.execute(insert(MARKS).values(name=_BOOT_MARK, value=boot))
    else:
        connection.execute(update(MARKS).where(named).values(value=boot))


def _boot() -> int | None:
    """A number of 63 bits that every start of the machine has another of, where it says so."""
    try:
        return uuid.UUID(_BOOT_ID.read_text().strip()).int >> 65
    except (OSError, ValueError):
        return None
