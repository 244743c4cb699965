"""What the door promises, over SQLite and over PostgreSQL."""

from __future__ import annotations

import errno
import sqlite3
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imaging.errors import (
    BadParameter,
    Cancelled,
    DiskFull,
    JobNotFound,
    JobUnfinished,
    KeyReused,
    NotCT,
    ServiceBusy,
    ServiceFailed,
    WorkerLost,
)
from serving.jobs import jobs as jobs_module
from serving.jobs.jobs import Jobs
from serving.jobs.ledger import Claim
from serving.jobs.parts import Parts
from serving.jobs.record import Job, State
from serving.jobs.roll import Status
from serving.jobs.tables import MARKS
from serving.settings import Settings

Submit = Callable[..., Job]
RESULT = {"files": [], "report": {"model": {"sha256": "5" * 64}, "seconds": {"network": 1.0}}}


@pytest.fixture
def parts(settings: Settings, jobs: Jobs):
    """What a worker has open."""
    made = Parts.open(settings)
    yield made
    made.close()


def take(parts: Parts, worker: str = "w") -> Claim:
    id = parts.queue.take(1.0)
    assert id is not None
    claim = parts.ledger.claim(id, worker)
    assert claim is not None
    return claim


def finish(parts: Parts, claim: Claim) -> bool:
    parts.spool.attempt(claim.job)
    parts.spool.result(claim.job).write_bytes(b"PK")
    return parts.ledger.finish(claim, RESULT)


def finish_again(parts: Parts, claim: Claim) -> bool:
    return parts.ledger.finish(claim, RESULT)


def test_a_job_is_taken_and_done(jobs: Jobs, parts: Parts, submit: Submit) -> None:
    job = submit(priority=20)
    assert (job.state, job.owner, job.priority, job.attempts) == ("queued", "anna", 20, 0)
    assert jobs.place(job) == 1
    with pytest.raises(JobUnfinished, match="queued"):
        jobs.result(job)

    claim = take(parts)
    assert (claim.job.id, claim.job.state, claim.job.attempts) == (job.id, "running", 1)
    assert parts.ledger.beat(claim, "network", 0.5) is False
    running = jobs.get(job.id)
    assert (running.step, running.part, jobs.place(running)) == ("network", 0.5, None)
    assert running.started is not None
    assert running.started >= job.created
    assert finish(parts, claim)

    done = jobs.get(job.id)
    assert (done.state, done.model, done.result) == ("done", "5" * 64, RESULT)
    assert jobs.result(done).read_bytes() == b"PK"
    assert jobs.counts() == {s: int(s is State.DONE) for s in State}


def test_the_upload_moves_into_the_job_and_goes_with_its_end(
    jobs: Jobs, parts: Parts, submit: Submit, settings: Settings, ct: Path
) -> None:
    job = submit()
    held = settings.spool / "jobs" / job.id / "input" / "000000"
    assert held.read_bytes() == ct.read_bytes()
    assert list((settings.spool / "staging").iterdir()) == []
    finish(parts, take(parts))
    jobs.tidy()
    assert [p.name for p in held.parents[1].rglob("*")] == ["1", "result.zip"]


def test_only_this_user_may_read_the_spool(jobs: Jobs, settings: Settings) -> None:
    for folder in (settings.spool, *settings.spool.iterdir()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_a_spool_that_cannot_be_made_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadParameter, match="ISLET_SPOOL"):
        Jobs(replace(settings, spool=tmp_path / "file" / "spool"))


def test_records_of_another_layout_are_refused(parts: Parts, settings: Settings) -> None:
    with parts.records.write() as connection:
        connection.execute(MARKS.update().where(MARKS.c.name == "layout").values(value=99))
    with pytest.raises(ServiceFailed, match="99"):
        Jobs(settings)


def test_priority_goes_before_arrival(jobs: Jobs, parts: Parts, submit: Submit) -> None:
    low, first, second = submit(priority=0), submit(), submit()
    assert [jobs.place(j) for j in (first, second, low)] == [1, 2, 3]
    assert [take(parts).job.id for _ in range(3)] == [first.id, second.id, low.id]


def test_a_job_that_is_cleared_is_that_one_alone(parts: Parts, submit: Submit) -> None:
    made = [submit().id for _ in range(3)]
    for number in made:
        parts.ledger.cancel(number)
    parts.ledger.clear(sorted(made)[1])
    assert sorted(job.id for job in parts.catalogue.uncleared()) == sorted(made)[::2]


def test_a_full_queue_refuses_and_keeps_nothing(
    jobs: Jobs, parts: Parts, submit: Submit, settings: Settings
) -> None:
    for _ in range(settings.queue):
        submit()
    with pytest.raises(ServiceBusy, match="3 jobs wait") as caught:
        jobs.room()
    assert caught.value.details["retry_after_s"] >= 1
    with pytest.raises(ServiceBusy):
        submit()
    assert len(list((settings.spool / "jobs").iterdir())) == 3
    take(parts)
    jobs.room()
    submit()


def test_the_bound_holds_for_callers_at_once(
    jobs: Jobs, submit: Submit, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of them pass the first look, so the transaction alone refuses.
    monkeypatch.setattr(jobs, "room", lambda: None)
    refused = []

    def call() -> None:
        try:
            submit()
        except ServiceBusy as error:
            refused.append(error)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(refused), jobs.counts()[State.QUEUED]) == (5, 3)
    assert len(list((settings.spool / "jobs").iterdir())) == 3


def test_a_key_gives_the_first_job_back(jobs: Jobs, submit: Submit, settings: Settings) -> None:
    first = submit(key="k", fingerprint="a")
    assert submit(key="k", fingerprint="a").id == first.id
    with pytest.raises(KeyReused, match="idempotency key"):
        submit(key="k", fingerprint="b")
    assert submit(key="k", fingerprint="b", owner="berta").id != first.id
    assert jobs.counts()[State.QUEUED] == 2
    # The key is found even where nothing new would be taken.
    submit()
    assert submit(key="k", fingerprint="a").id == first.id
    jobs.delete(first.id)
    assert submit(key="k", fingerprint="b").id != first.id


def test_a_long_key_is_told_apart_whole(submit: Submit) -> None:
    long = "k" * 100
    submit(key=long, fingerprint="a")
    submit(key=long + "l", fingerprint="b")
    with pytest.raises(KeyReused):
        submit(key=long, fingerprint="b")


def test_a_key_that_comes_many_times_at_once_is_one_job(jobs: Jobs, submit: Submit) -> None:
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(submit(key="k", fingerprint="a").id))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found)), jobs.counts()[State.QUEUED]) == (6, 1, 1)


def test_jobs_are_seen_by_their_owner_alone(jobs: Jobs, submit: Submit) -> None:
    job = submit(owner="anna")
    other = submit(owner="berta")
    for call in (jobs.get, jobs.cancel, jobs.delete):
        with pytest.raises(JobNotFound, match=job.id):
            call(job.id, "berta")
    assert jobs.get(job.id, "anna") == jobs.get(job.id) == job
    assert [j.id for j in jobs.list("anna")] == [job.id]
    assert [j.id for j in jobs.list()] == [other.id, job.id]
    assert [j.id for j in jobs.list(limit=1)] == [other.id]
    assert jobs.list(state=State.DONE) == []
    with pytest.raises(JobNotFound):
        jobs.get("0" * 32)


def test_a_waiting_job_is_cancelled_at_once(
    jobs: Jobs, parts: Parts, submit: Submit, settings: Settings
) -> None:
    job = submit()
    assert jobs.cancel(job.id).state == "cancelled"
    with pytest.raises(Cancelled, match=job.id):
        jobs.result(jobs.get(job.id))
    id = parts.queue.take(0.0)
    assert id == job.id
    assert parts.ledger.claim(id, "w") is None
    jobs.tidy()
    assert list((settings.spool / "jobs").iterdir()) == []
    assert jobs.cancel(job.id).state == "cancelled"


def test_a_cancelled_job_never_becomes_done(jobs: Jobs, parts: Parts, submit: Submit) -> None:
    job = submit()
    claim = take(parts)
    told = jobs.cancel(job.id)
    assert (told.state, told.cancelling) == ("running", True)
    assert parts.ledger.look(claim) is True
    assert parts.ledger.beat(claim, None, 0.0) is True
    assert not finish(parts, claim)
    assert parts.ledger.fail(claim, {"code": "x", "message": "y", "details": {}})
    ended = jobs.get(job.id)
    assert (ended.state, ended.error, ended.result) == ("cancelled", None, None)


def test_a_lost_claim_is_void_even_for_the_worker_that_claims_again(
    jobs: Jobs, parts: Parts, submit: Submit
) -> None:
    job = submit()
    first = take(parts)
    parts.ledger.lapse(["w"])
    jobs.tidy()
    second = take(parts)
    assert (first.worker, second.job.id, second.job.attempts) == ("w", job.id, 2)
    assert parts.ledger.beat(first, "network", 0.5) is None
    assert not finish(parts, first)
    assert not parts.ledger.fail(first, {"code": "x", "message": "y", "details": {}})
    parts.ledger.give_back(first)
    assert jobs.get(job.id).state == "running"
    assert finish(parts, second)
    assert not finish_again(parts, second), "a job ends once"


def test_the_third_loss_ends_a_job_and_what_was_given_back_counts_not(
    jobs: Jobs, parts: Parts, submit: Submit
) -> None:
    job = submit()
    for loss in range(3):
        parts.ledger.give_back(take(parts))
        jobs.tidy()
        assert jobs.get(job.id).state == "queued"
        take(parts)
        parts.ledger.lapse(["w"])
        jobs.tidy()
        assert jobs.get(job.id).state == ("failed" if loss == 2 else "queued")
    ended = jobs.get(job.id)
    assert ended.attempts == 6
    with pytest.raises(WorkerLost):
        jobs.result(ended)


def test_delete_forgets_a_job_once_it_ended(
    jobs: Jobs, parts: Parts, submit: Submit, settings: Settings
) -> None:
    waiting, done = submit(), submit()
    jobs.delete(waiting.id)
    assert parts.queue.take(0.0) == waiting.id
    finish(parts, take(parts))
    jobs.delete(done.id)
    for job in (waiting, done):
        with pytest.raises(JobNotFound):
            jobs.get(job.id)
    running = submit()
    claim = take(parts)
    jobs.delete(running.id)
    assert jobs.get(running.id).cancelling
    parts.ledger.fail(claim, {"code": "x", "message": "y", "details": {}})
    jobs.tidy()
    with pytest.raises(JobNotFound):
        jobs.get(running.id)
    assert list((settings.spool / "jobs").iterdir()) == []


def test_a_failed_jobs_own_error_is_raised(jobs: Jobs, parts: Parts, submit: Submit) -> None:
    job = submit()
    error = NotCT("The modality is MR; send a CT.", modality="MR")
    assert parts.ledger.fail(take(parts), error.as_dict())
    with pytest.raises(NotCT, match="MR") as caught:
        jobs.result(jobs.get(job.id))
    assert caught.value.as_dict() == error.as_dict()


def test_ends_come_once_and_in_order(jobs: Jobs, parts: Parts, submit: Submit) -> None:
    first, second, third = submit(), submit(), submit()
    none, mark = jobs.ended_since(None)
    assert none == []
    claims = [take(parts) for _ in range(2)]
    finish(parts, claims[1])
    jobs.cancel(third.id)
    ended, mark = jobs.ended_since(mark)
    assert [j.id for j in ended] == [second.id, third.id]
    assert jobs.ended_since(mark) == ([], mark)
    finish(parts, claims[0])
    assert [j.id for j in jobs.ended_since(mark)[0]] == [first.id]
    assert jobs.ended_since(None) == ([], jobs.ended_since(mark)[1])


def test_a_lost_queue_entry_is_put_back_once(jobs: Jobs, parts: Parts, submit: Submit) -> None:
    first, second = submit(), submit()
    assert parts.queue.take(0.0) == first.id
    for _ in range(2):
        jobs.tidy()
    # In its old place, before the one that came later.
    assert [parts.queue.take(0.0) for _ in range(3)] == [first.id, second.id, None]


def test_a_submit_whose_queue_is_away_is_accepted(
    jobs: Jobs, parts: Parts, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(id: str, turn: float) -> None:
        raise sqlite3.OperationalError("away")

    monkeypatch.setattr(jobs._parts.queue, "put", away)
    job = submit()
    assert parts.queue.take(0.0) is None
    monkeypatch.undo()
    jobs.tidy()
    assert take(parts).job.id == job.id


def test_results_go_after_their_time(
    jobs: Jobs,
    parts: Parts,
    submit: Submit,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = submit()
    finish(parts, take(parts))
    jobs.tidy()
    path = jobs.result(jobs.get(job.id))
    path.unlink()
    with pytest.raises(JobNotFound):
        jobs.result(jobs.get(job.id))
    brief = Jobs(replace(settings, keep_hours=0))
    brief.tidy()
    assert jobs.get(job.id).state == "done", "there is a minute to fetch it"
    monkeypatch.setattr("serving.jobs.tidy._FETCH_S", -1.0)
    brief.tidy()
    brief.close()
    with pytest.raises(JobNotFound):
        jobs.get(job.id)
    assert list((settings.spool / "jobs").iterdir()) == []


def test_no_room_on_the_disk_is_named(
    jobs: Jobs, submit: Submit, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("serving.jobs.spool._to_disk", full)
    with pytest.raises(DiskFull, match="ISLET_SPOOL"):
        submit()
    assert list((settings.spool / "jobs").iterdir()) == []
    assert list((settings.spool / "staging").iterdir()) == []


def test_an_estimate_follows_recent_jobs_and_progress(
    jobs: Jobs, parts: Parts, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "_HABIT_S", 0.0)
    waiting = submit()
    assert jobs.eta_s(waiting) is None
    finish(parts, take(parts))
    parts.roll.call("w", Status(ready=True))
    waiting = submit()
    assert jobs.eta_s(waiting) is not None
    assert jobs.eta_s(jobs.list(state=State.DONE)[0]) is None
