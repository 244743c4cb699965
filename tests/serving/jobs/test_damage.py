"""Records that were damaged, and clocks that jump: named, or without an effect."""

from __future__ import annotations

import errno
import random
import sqlite3
import time
from pathlib import Path

import pytest

from imaging.errors import DiskFull, DiskReadOnly, ModelError, RecordsDamaged
from serving.jobs import tables
from serving.jobs.failures import of_disk, recorded
from serving.jobs.jobs import Jobs
from serving.jobs.parts import Parts
from serving.jobs.record import State
from serving.jobs.roll import Status
from serving.settings import Settings

JUMPS_S = (7200.0, -7200.0, 30 * 86400.0)


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    """Jobs in files of a spool."""
    return Settings(spool=tmp_path / "spool")


def filled(settings: Settings, jobs: int = 6) -> Path:
    """The database of jobs that wait."""
    made = Jobs(settings)
    for number in range(jobs):
        made.submit("segment", {"words": "x" * 500, "number": number}, "anna", None)
    made.close()
    database = settings.spool / "records" / "jobs.db"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return database


@pytest.mark.parametrize("where", ["head", "pages", "end"])
def test_damaged_records_are_named_when_they_are_opened(here: Settings, where: str) -> None:
    database = filled(here)
    whole = bytearray(database.read_bytes())
    if where == "head":
        whole[:100] = random.Random(1).randbytes(100)
    elif where == "pages":
        whole[4096:12288] = bytes(8192)
    else:
        del whole[len(whole) // 2 :]
    database.write_bytes(whole)
    with pytest.raises(RecordsDamaged, match="copy"):
        Jobs(here)


@pytest.mark.parametrize(
    "damage", ["request = '{\"words'", "state = 'quiet'", "owner = CAST(x'ff' AS TEXT)"]
)
def test_a_record_that_cannot_be_made_out_is_named(here: Settings, damage: str) -> None:
    database = filled(here, 1)
    with sqlite3.connect(database) as connection:
        connection.execute(f"UPDATE islet_jobs SET {damage}")
    connection.close()
    jobs = Jobs(here)
    with pytest.raises(RecordsDamaged):
        jobs.list()
    jobs.close()


def test_a_damaged_queue_is_made_anew_and_holds_what_waits(here: Settings) -> None:
    filled(here, 3)
    queue = here.spool / "records" / "queue.db"
    for damage in (b"no database", bytes(queue.stat().st_size)):
        queue.write_bytes(damage)
        jobs = Jobs(here)
        jobs.tidy()
        jobs.close()
        parts = Parts.open(here)
        assert parts.queue.entries() == parts.catalogue.ids()
        assert len(parts.catalogue.ids()) == 3
        parts.close()


@pytest.mark.parametrize("jump_s", JUMPS_S)
def test_a_clock_that_jumps_takes_no_job_from_its_worker(
    here: Settings, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    jobs, parts = Jobs(here), Parts.open(here)
    job = jobs.submit("segment", {}, "anna", None)
    parts.roll.call("w" * 32, Status(ready=True))
    claim = parts.ledger.claim(job.id, "w" * 32)
    assert claim is not None
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    jobs.tidy()
    assert jobs.ready()
    assert parts.ledger.beat(claim, "network", 0.5) is False
    assert jobs.get(job.id).attempts == 1
    assert parts.ledger.finish(claim, {"files": [], "report": {}})
    assert jobs.get(job.id).state is State.DONE
    parts.close()
    jobs.close()


def test_where_the_machine_was_started_again_nobody_works_any_more(
    here: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = Parts.open(here)
    job = Jobs(here).submit("segment", {}, "anna", None)
    parts.roll.call("w" * 32, Status(ready=True))
    assert parts.ledger.claim(job.id, "w" * 32)
    parts.close()
    boot = tmp_path / "boot_id"
    boot.write_text("5c0f1f6e-3f0b-4a56-9a54-0d7f8e0c3b11\n")
    monkeypatch.setattr(tables, "_BOOT_ID", boot)
    after = Jobs(here)
    assert not after.ready()
    after.tidy()
    assert after.get(job.id).state is State.QUEUED
    after.close()


def test_a_disk_that_cannot_be_written_is_told_apart() -> None:
    assert isinstance(of_disk(OSError(errno.ENOSPC, "")), DiskFull)
    assert isinstance(of_disk(OSError(errno.EROFS, "")), DiskReadOnly)
    assert of_disk(OSError(errno.EPERM, "")) is None
    assert recorded(OSError(errno.EROFS, ""))["code"] == "disk_read_only"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("patient Doe"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_a_job_without_memory_has_a_code(error: Exception) -> None:
    found = recorded(error)
    assert found["code"] == "out_of_memory"
    assert "Doe" not in str(found)


def test_a_runtime_without_memory_is_no_bad_model() -> None:
    failed = ModelError("The runtime failed.")
    assert recorded(failed)["code"] == "bad_model"
    failed.__cause__ = RuntimeError("std::bad_alloc")
    assert recorded(failed)["code"] == "out_of_memory"
