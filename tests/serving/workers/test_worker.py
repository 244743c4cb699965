"""A worker in a thread: what it does with jobs that go well and that do not."""

from __future__ import annotations

import errno
import io
import json
import logging
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from imaging.errors import BadParameter, DiskFull, IsletError, ModelNotFound, NotCT, TruncatedFile
from imaging.read import read_volume
from models.store import Store
from serving.jobs.jobs import Jobs
from serving.jobs.record import ENDED, Job, State
from serving.jobs.task import Done, Task
from serving.options import Options
from serving.settings import Settings
from serving.workers import work
from serving.workers.work import pack
from serving.workers.worker import Worker
from tests.serving.jobs.conftest import until
from tests.serving.tiny_model import boxes_ct, publish

Submit = Callable[..., Job]


@pytest.fixture
def worker(settings: Settings, store: Store) -> Iterator[Worker]:
    made = Worker("w" * 32, settings, store)
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.leaving.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Task], Done]], str]:
    """Adds a kind of work; gives its name."""

    def add(perform: Callable[[Task], Done]) -> str:
        monkeypatch.setitem(work.KINDS, "odd", perform)
        return "odd"

    return add


def ended(jobs: Jobs, job: Job) -> Job:
    until(lambda: jobs.get(job.id).state in ENDED)
    return jobs.get(job.id)


def test_a_ct_becomes_the_right_labels(
    jobs: Jobs, worker: Worker, submit: Submit, settings: Settings, store: Store, tmp_path: Path
) -> None:
    until(jobs.ready)
    job = ended(jobs, submit())
    assert job.state is State.DONE, job.error
    assert job.model == store.resolve("starter").sha256
    assert job.result is not None
    with zipfile.ZipFile(jobs.result(job)) as archive:
        listed = [(i.filename, i.file_size, i.compress_type) for i in archive.infolist()]
        (tmp_path / "labels.nii.gz").write_bytes(archive.read("labels.nii.gz"))
        assert job.result["report"] == json.loads(archive.read("report.json"))
    assert listed == [(f["name"], f["bytes"], 0) for f in job.result["files"]]
    assert job.result["files"][-1]["type"] == "application/json"
    np.testing.assert_array_equal(read_volume(tmp_path / "labels.nii.gz").array, boxes_ct()[1])
    # What was uploaded is gone; the result alone is left.
    until(lambda: not (settings.spool / "jobs" / job.id / "input").exists())
    (row,) = jobs.workers()
    assert (row["ready"], row["error"], row["models"][0]["model"]) == (True, None, "starter@1")
    assert row["memory_mb"] > 10


def test_connections_that_break_are_made_again(
    jobs: Jobs, worker: Worker, submit: Submit, settings: Settings
) -> None:
    """As when PostgreSQL is restarted, with a worker that waits and a service that idles."""
    if settings.database is None:
        pytest.skip("files do not go away")
    until(jobs.ready)
    with psycopg.connect(settings.database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    job = submit()
    jobs.tidy()
    assert ended(jobs, job).state is State.DONE


def test_errors_of_the_tree_are_told(jobs: Jobs, worker: Worker, submit: Submit) -> None:
    job = ended(jobs, submit(request=Options(model="absent").to_json()))
    assert (job.state, job.error and job.error["code"]) == (State.FAILED, "model_not_found")
    with pytest.raises(ModelNotFound, match="absent"):
        jobs.result(job)
    unknown = ended(jobs, submit(kind="unheard-of"))
    with pytest.raises(BadParameter, match="unheard-of"):
        jobs.result(unknown)


def test_other_errors_are_told_without_their_text(
    jobs: Jobs, worker: Worker, submit: Submit, odd: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    name = "^".join(["Doe", "Jane"])

    def broken(task: Task) -> Done:
        raise ValueError(name)

    job = ended(jobs, submit(kind=odd(broken)))
    assert job.error is not None
    assert job.error["code"] == "internal_error"
    with pytest.raises(IsletError) as caught:
        jobs.result(job)
    assert caught.value.as_dict() == job.error
    assert job.error["details"]["id"] in caplog.text
    assert "ValueError" in caplog.text
    assert "in broken" in caplog.text
    assert "Jane" not in caplog.text + str(job)


def test_a_full_disk_is_told_and_leaves_nothing(
    jobs: Jobs, worker: Worker, submit: Submit, odd: Callable, settings: Settings
) -> None:
    def full(task: Task) -> Done:
        (task.folder / "scratch").write_bytes(b"x")

        def files() -> Iterator[tuple[str, bytes]]:
            yield "labels.nii.gz", b"x"
            raise OSError(errno.ENOSPC, "no room")

        return Done(files(), {})

    job = ended(jobs, submit(kind=odd(full)))
    with pytest.raises(DiskFull):
        jobs.result(job)
    until(lambda: not (settings.spool / "jobs" / job.id).exists())


def test_work_that_was_lost_publishes_nothing(
    jobs: Jobs, worker: Worker, submit: Submit, odd: Callable, settings: Settings
) -> None:
    """Two attempts at once: the first was taken for dead, and ends after the second began."""
    began = threading.Event()

    def attempt(task: Task) -> Done:
        if task.job.attempts == 1:
            worker._parts.ledger.lapse(["w" * 32])
            began.set()
        (task.folder / "scratch").write_bytes(b"x")
        return Done([("report.json", b"%d" % task.job.attempts)], {})

    job = submit(kind=odd(attempt))
    assert began.wait(10)
    jobs.tidy()
    job = ended(jobs, job)
    assert (job.state, job.attempts) == (State.DONE, 2)
    with zipfile.ZipFile(jobs.result(job)) as archive:
        assert archive.read("report.json") == b"2"
    jobs.tidy()
    left = [p.name for p in (settings.spool / "jobs" / job.id).rglob("*")]
    assert left == ["2", "result.zip"]


def test_without_its_model_a_worker_says_so_and_tries_again(
    jobs: Jobs, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "empty", behind=())
    worker = Worker("w" * 32, settings, store)
    worker._tend()
    (row,) = jobs.workers()
    assert (row["ready"], row["error"]["code"]) == (False, "model_not_found")
    assert not jobs.ready()
    publish(store, tmp_path)
    worker._tended = -100.0
    worker._tend()
    assert jobs.ready()
    assert caplog.text.count("not ready") == 1
    worker._parts.close()


def test_equal_results_are_equal_archives(tmp_path: Path) -> None:
    files = [("a.nii.gz", b"1"), ("report.json", b"{}")]
    for name in ("one", "two"):
        pack(Done(files, {}), tmp_path / name)
    data = (tmp_path / "one").read_bytes()
    assert data == (tmp_path / "two").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None


def test_a_report_may_be_filled_while_files_are_taken(tmp_path: Path) -> None:
    report: dict[str, object] = {}

    def files() -> Iterator[tuple[str, bytes]]:
        yield "report.json", b"{}"
        report["late"] = True

    assert pack(Done(files(), report), tmp_path / "r.zip")["report"] == {"late": True}


def test_work_that_breaks_off_leaves_no_archive(tmp_path: Path) -> None:
    def files() -> Iterator[tuple[str, bytes]]:
        yield "labels.nii.gz", b"x"
        raise TruncatedFile("It ends.")

    with pytest.raises(TruncatedFile):
        pack(Done(files(), {}), tmp_path / "r.zip")
    assert list(tmp_path.iterdir()) == []


def test_logs_of_jobs_name_no_input(caplog: pytest.LogCaptureFixture) -> None:
    from serving.jobs.failures import raised, recorded

    caplog.set_level(logging.DEBUG)
    error = NotCT("The modality is MR; send a CT.", modality="MR")
    assert recorded(error) == error.as_dict()
    assert caplog.text == ""
    assert type(raised(error.as_dict())) is NotCT


def test_a_thread_that_never_begins_is_seen() -> None:
    """In a process of its own: whoever starts such a thread waits for it for ever."""
    script = """
import threading, time
from serving.workers.worker import Unbegun

class Dead(threading.Thread):
    def _bootstrap(self):
        "As one that found no memory."

look = Unbegun().look
print(look(0.0), look(100.0))
threading.Thread(target=Dead().start, daemon=True).start()
time.sleep(0.5)
print(look(200.0), look(210.0), look(230.0))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert ended.stdout.split() == [b"False", b"False", b"False", b"False", b"True"]
