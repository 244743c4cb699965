"""Folders of jobs: what is taken, what is left over, what goes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from serving.jobs import roll
from serving.jobs.jobs import Jobs
from serving.jobs.record import Job, State
from serving.jobs.spool import Spool
from serving.settings import Settings
from tests.machines import before_every_step

HOUR = 3600.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def job(id: str, **more: object) -> Job:
    first = {"kind": "segment", "request": {}, "owner": "a", "priority": 0, "attempts": 1}
    return Job(id=id, state=State.DONE, created=0.0, **(first | more))  # type: ignore[arg-type]


def test_an_upload_that_nobody_took_goes(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.staged() as folder:
        (folder / "000000").write_bytes(b"x")
    assert not folder.exists()
    with spool.staged() as folder:
        spool.take("a", folder)
    assert (tmp_path / "jobs" / "a" / "input").is_dir()


def test_uploads_of_dead_processes_go_and_others_stay(tmp_path: Path) -> None:
    clock = Clock()
    spool = Spool(tmp_path, clock)
    ended = subprocess.Popen(["true"])
    ended.wait()
    staging = tmp_path / "staging"
    dead = staging / f"{roll.place()}-{ended.pid}-0"
    elsewhere = staging / f"0123456789ab-{ended.pid}-0"
    still = staging / f"{roll.place()}-{os.getpid()}-1"
    for folder in (dead, elsewhere, still):
        folder.mkdir()
        (folder / "000000").write_bytes(b"x")
    with spool.staged() as mine:
        (mine / "000000").write_bytes(b"x")
        spool.sweep()
        assert set(staging.iterdir()) == {elsewhere, still, mine}
        clock.now += 2 * HOUR
        # Bytes still come in.
        os.utime(mine / "000000", (1, 1))
        os.utime(elsewhere)
        spool.sweep()
        assert set(staging.iterdir()) == {elsewhere, mine}


def test_a_clock_that_jumps_takes_no_upload_that_comes_in(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Clock())
    with spool.staged() as mine:
        (mine / "000000").write_bytes(b"x")
        # As if they had been written two days ago, or tomorrow.
        for moment in (-172800, 86400):
            for path in (mine / "000000", mine):
                os.utime(path, (path.stat().st_mtime + moment,) * 2)
            spool.sweep()
            assert mine.is_dir()


def test_folders_without_a_record_go_after_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("serving.jobs.parts.Spool", lambda root: Spool(root, clock))
    jobs = Jobs(Settings(spool=tmp_path))
    kept = jobs.submit("segment", {}, "a", None)
    lost, young = "0" * 32, "1" * 32
    (tmp_path / "jobs" / lost).mkdir()
    jobs.tidy()
    clock.now += 2 * HOUR
    (tmp_path / "jobs" / young).mkdir()
    jobs.tidy()
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {kept.id, young}
    jobs.close()


def test_an_attempt_sees_the_upload_and_writes_beside_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.staged() as folder:
        (folder / "000000").write_bytes(b"x")
        spool.take("a", folder)
    first, second = job("a"), job("a", attempts=2, result={"files": []})
    for attempt in (first, second):
        made = spool.attempt(attempt)
        assert [path.read_bytes() for path in (made / "input").iterdir()] == [b"x"]
        (made / "scratch").mkdir()
        spool.result(attempt).write_bytes(b"%d" % attempt.attempts)
    spool.drop(first)
    assert list(spool.result(first).parent.iterdir()) == [spool.result(first)]
    # The upload itself is not the attempt's to remove.
    assert (tmp_path / "jobs" / "a" / "input" / "000000").exists()
    spool.clear(second)
    left = sorted(path for path in (tmp_path / "jobs").rglob("*") if path.is_file())
    assert left == [spool.result(second)]
    spool.clear(job("a"))
    assert list((tmp_path / "jobs").iterdir()) == []


def test_what_is_gone_already_is_no_error(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for gone in (job("a"), job("a", result={"files": []})):
        spool.clear(gone)
        spool.drop(gone)
        spool.remove(gone.id)
    assert spool.old() == []


def test_two_may_remove_the_same_files_at_a_time(tmp_path: Path) -> None:
    spool, other = Spool(tmp_path), Spool(tmp_path)
    done = job("a", result={"files": []})
    spool.take("a", None)
    made = spool.attempt(done)
    for name in ("scratch", "result.zip", "more"):
        (made / name).write_bytes(b"x")
    with before_every_step(lambda: other.clear(done)):
        spool.clear(done)
    left = sorted(path for path in (tmp_path / "jobs").rglob("*") if path.is_file())
    assert left == [spool.result(done)]


def test_uploads_and_results_are_on_the_disk_itself(tmp_path: Path, monkeypatch) -> None:
    synced = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    spool, jobs = Spool(tmp_path), tmp_path / "jobs"
    with spool.staged() as folder:
        (folder / "a").mkdir()
        (folder / "a" / "000000").write_bytes(b"x")
        staged = {folder, folder / "a", folder / "a" / "000000"}
        spool.take("a", folder)
    assert set(synced) == {*staged, jobs / "a", jobs}
    made = spool.attempt(job("a"))
    synced.clear()
    spool.keep_result(job("a"))
    assert synced == [made, jobs / "a"]


def test_whether_a_process_lives_is_told_only_where_it_can_be() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert roll.gone(roll.place(), ended.pid)
    assert not roll.gone(roll.place(), os.getpid())
    assert not roll.gone("another", ended.pid)
