"""Folders of jobs: what is taken, what is left over, what goes."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from serving.jobs import roll
from serving.jobs.jobs import Jobs
from serving.jobs.record import Job, State
from serving.jobs.spool import Spool
from serving.settings import Settings
from tests.machines import before_every_step

OLD = time.time() - 7200


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
    spool = Spool(tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    staging = tmp_path / "staging"
    dead = staging / f"{roll.place()}-{ended.pid}-0"
    elsewhere = staging / f"0123456789ab-{ended.pid}-0"
    still = staging / f"{roll.place()}-{os.getpid()}-1"
    for folder in (dead, elsewhere, still):
        folder.mkdir()
        (folder / "000000").write_bytes(b"x")
    for path in (still, still / "000000"):
        os.utime(path, (OLD, OLD))
    with spool.staged() as mine:
        os.utime(mine, (OLD, OLD))
        (mine / "000000").write_bytes(b"x")
        os.utime(mine, (OLD, OLD))
        spool.sweep()
        # Bytes still come in, though the folder itself is old.
        assert set(staging.iterdir()) == {elsewhere, mine}


def test_folders_without_a_record_go_after_an_hour(tmp_path: Path) -> None:
    jobs = Jobs(Settings(spool=tmp_path))
    kept = jobs.submit("segment", {}, "a", None)
    for name in (kept.id, "0" * 32, "1" * 32):
        (tmp_path / "jobs" / name).mkdir(exist_ok=True)
    for name in (kept.id, "0" * 32):
        os.utime(tmp_path / "jobs" / name, (OLD, OLD))
    jobs.tidy()
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {kept.id, "1" * 32}
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
