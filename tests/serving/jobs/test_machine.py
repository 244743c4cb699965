"""The whole store of jobs: records, queue and files, workers that die, a service that is restarted.

Nothing accepted is lost, nothing ends twice, and no result is seen before it is whole, whatever
happens in whatever order. In ``make test`` the examples are few and the same every time;
``ISLET_EXAMPLES=500 pytest tests/serving/jobs/test_machine.py`` draws that many anew, each of three
times as many steps.
"""

from __future__ import annotations

import shutil
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update

from imaging.errors import Cancelled, IsletError, JobUnfinished, ServiceBusy
from serving.jobs.jobs import Jobs
from serving.jobs.ledger import LEASE_S, Claim, Ledger
from serving.jobs.parts import Parts
from serving.jobs.record import ENDED, Job, State
from serving.jobs.spool import Spool
from serving.jobs.tables import JOBS
from serving.jobs.task import Done
from serving.jobs.tidy import bury
from serving.settings import Settings
from serving.workers.work import pack
from tests.machines import before_every_step, budget

ERROR = {"code": "not_ct", "message": "The modality is MR.", "details": {}}
MOST = 3
WORKERS = "ab"


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Expected:
    """What must be known of a job that was accepted: its upload, and once it ended, how."""

    upload: bytes
    ended: Job | None = None
    answer: bytes | None = None
    forget: bool = False


@dataclass
class Attempt:
    """A job in a worker's hands; ``packed`` is what it wrote, once that is whole."""

    claim: Claim
    packed: dict[str, Any] | None = None
    answer: bytes = field(default=b"")


class JobsMachine(RuleBasedStateMachine):
    """What may happen to jobs; ``ledger`` and ``spool`` are the parts that it happens to."""

    ledger: ClassVar[type[Ledger]] = Ledger
    spool: ClassVar[type[Spool]] = Spool
    ids = Bundle("ids")
    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(prefix="islet-test-"))
        self.settings = Settings(spool=self.folder / "spool", queue=MOST)
        self.clock = Clock()
        self.accepted: dict[str, Expected] = {}
        self.count = 0
        self.restarted = self.written = False
        self._open()
        _, self.mark = self.jobs.ended_since(None)

    def _open(self) -> None:
        self.jobs = Jobs(self.settings)
        self.parts = self.jobs._parts
        self.parts.records._clock = self.clock
        ledger = self.ledger(self.parts.records, self.settings.queue)
        spool = self.spool(self.settings.spool)
        self.parts = Parts(**{**vars(self.parts), "ledger": ledger, "spool": spool})
        self.jobs._parts = self.parts

    def teardown(self) -> None:
        self.jobs.close()
        shutil.rmtree(self.folder)

    @rule(target=ids, priority=st.sampled_from([0, 10]), key=st.sampled_from([None, None, "k"]))
    def submit(self, priority: int, key: str | None) -> object:
        self.count += 1
        upload = b"upload %d" % self.count
        try:
            with self.jobs.staged() as folder:
                (folder / "000000").write_bytes(upload)
                job = self.jobs.submit("segment", {}, "anna", folder, priority, key, "same")
        except ServiceBusy:
            assert self.jobs.counts()[State.QUEUED] >= MOST
            return multiple()
        if job.id in self.accepted:
            assert key is not None, "two jobs of one id"
            return multiple()
        self.accepted[job.id] = Expected(upload)
        return job.id

    @initialize(target=attempts)
    def begin(self) -> object:
        """Two jobs, one of them in a worker's hands."""
        self.submit(0, None)
        self.submit(10, "k")
        return self.take("a")

    @rule(entry=st.booleans())
    def somebody_dies(self, entry: bool) -> None:
        """A worker before it claims what it took, or a service before it writes a record."""
        if entry:
            self.parts.queue.take(0.0)
            return
        self.count += 1
        with self.parts.spool.staged() as folder:
            self.parts.spool.take(f"{self.count:032x}", folder)

    @rule(target=attempts, worker=st.sampled_from(WORKERS))
    def take(self, worker: str) -> object:
        id = self.parts.queue.take(0.0)
        claim = None if id is None else self.parts.ledger.claim(id, worker)
        if claim is None:
            return multiple()
        attempt = Attempt(claim)
        upload = self.parts.spool.attempt(claim.job) / "input" / "000000"
        assert upload.read_bytes() == self.accepted[claim.job.id].upload
        return attempt

    @rule(attempt=attempts, finishes=st.booleans())
    def write(self, attempt: Attempt, finishes: bool) -> None:
        """A worker writes its result, also one that lost its job and does not know it yet."""
        job = attempt.claim.job
        attempt.answer = f"{job.id} by attempt {job.attempts}".encode()
        made = Done([("answer.json", attempt.answer), ("report.json", b"{}")], {})
        found = self._all()
        with before_every_step(lambda: self.nothing_half_written_is_read(found)):
            try:
                packed = pack(made, self.parts.spool.result(job))
                self.parts.spool.keep_result(job)
                attempt.packed, self.written = packed, True
            except FileNotFoundError:
                # The job ended without it, and its folder is gone.
                assert job.id not in found or found[job.id].state in ENDED
                return
        if finishes:
            self.finish(attempt)

    @precondition(lambda self: self.written)
    @rule(attempt=attempts)
    def finish(self, attempt: Attempt) -> None:
        if attempt.packed is None:
            return
        known = self.accepted[attempt.claim.job.id]
        if self.parts.ledger.finish(attempt.claim, attempt.packed):
            assert known.answer is None, "a job was finished twice"
            known.answer = attempt.answer

    @rule(attempt=consumes(attempts), how=st.sampled_from(["fail", "give back", "die"]))
    def end_without_a_result(self, attempt: Attempt, how: str) -> None:
        self.parts.spool.drop(attempt.claim.job)
        if how == "fail":
            self.parts.ledger.fail(attempt.claim, ERROR)
        elif how == "give back":
            self.parts.ledger.give_back(attempt.claim)
        else:
            bury(self.parts, [attempt.claim.worker])

    @rule(attempt=attempts)
    def worker_is_taken_for_dead(self, attempt: Attempt) -> None:
        """It lives, and goes on with a job that another one gets."""
        bury(self.parts, [attempt.claim.worker])

    @rule(attempt=attempts)
    def beat(self, attempt: Attempt) -> None:
        self.parts.ledger.beat(attempt.claim, "network", 0.5)

    @rule(id=ids | attempts.map(lambda attempt: attempt.claim.job.id))
    def cancel(self, id: str) -> None:
        if id in self._all():
            assert self.jobs.cancel(id).state is not State.QUEUED

    @rule(id=ids | attempts.map(lambda attempt: attempt.claim.job.id))
    def delete(self, id: str) -> None:
        if id in self._all():
            self.jobs.delete(id)
            self.accepted[id].forget = True

    @rule(seconds=st.sampled_from([1.0, LEASE_S + 1, 25 * 3600.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def tidy(self) -> None:
        limit = self.clock.now - self.settings.keep_hours * 3600
        for known in self.accepted.values():
            known.forget |= known.ended is not None and (known.ended.ended or 0) < limit
        self.jobs.tidy()
        waiting = {job.id for job in self.jobs.list(state=State.QUEUED)}
        assert waiting <= self.parts.queue.entries(), "a job waits and nobody is told"
        with self.parts.records.read() as connection:
            held = select(JOBS.c.lease).where(JOBS.c.state == State.RUNNING)
            leases = connection.scalars(held).all()
        assert all(lease >= self.clock.now for lease in leases), "a job is held by nobody"

    @precondition(lambda self: not self.restarted)
    @rule()
    def restart(self) -> None:
        self.jobs.close()
        self._open()
        self.restarted = True

    @invariant()
    def all_is_as_promised(self) -> None:
        found = self._all()
        self.ends_come_once(found)
        self.nothing_is_lost(found)
        self.nothing_half_written_is_read(found)

    def nothing_is_lost(self, found: dict[str, Job]) -> None:
        for id, known in self.accepted.items():
            job = found.get(id)
            if job is None:
                assert known.forget, "a job is lost"
            elif job.state not in ENDED:
                upload = self.settings.spool / "jobs" / id / "input" / "000000"
                assert upload.read_bytes() == known.upload

    def ends_come_once(self, found: dict[str, Job]) -> None:
        ended, self.mark = self.jobs.ended_since(self.mark)
        for job in ended:
            assert self.accepted[job.id].ended is None, "a job ended twice"
            self.accepted[job.id].ended = job
        for id, job in found.items():
            known = self.accepted[id]
            if known.ended is not None:
                assert job == known.ended, "a job that ended changed"

    def nothing_half_written_is_read(self, found: dict[str, Job]) -> None:
        for id, job in found.items():
            known = self.accepted[id]
            expected = {State.DONE: None, State.FAILED: IsletError, State.CANCELLED: Cancelled}
            error = expected.get(job.state, JobUnfinished)
            if error is not None:
                with pytest.raises(error):
                    self.jobs.result(job)
                continue
            with zipfile.ZipFile(self.jobs.result(job)) as archive:
                assert archive.testzip() is None
                assert archive.read("answer.json") == known.answer, "another attempt's result"

    def _all(self) -> dict[str, Job]:
        return {job.id: job for job in self.jobs.list(limit=1000)}


class Forgetful(Ledger):
    """Deletes the jobs of lost workers."""

    def lapse(self, gone: Any = ()) -> None:
        super().lapse(gone)
        with self._records.write() as connection:
            connection.execute(delete(JOBS).where(JOBS.c.losses > 0))


class Trusting(Ledger):
    """Believes every worker that says it is done."""

    def finish(self, claim: Claim, result: dict[str, Any]) -> bool:
        with self._records.write() as connection:
            values = {"state": "running", "worker": claim.worker, "attempts": claim.job.attempts}
            connection.execute(update(JOBS).where(JOBS.c.id == claim.job.id).values(values))
        return super().finish(claim, result)


class Crowded(Spool):
    """Has one place for the results of all attempts at a job."""

    def result(self, job: Job) -> Path:
        return self._jobs / job.id / "result.zip"


def test_the_jobs_hold_in_any_order_of_events() -> None:
    run_state_machine_as_test(JobsMachine, settings=budget(10, 30))


@pytest.mark.parametrize("ledger", [Forgetful, Trusting])
def test_broken_records_are_caught(ledger: type[Ledger]) -> None:
    machine = type("Broken", (JobsMachine,), {"ledger": ledger})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=budget(100, 30, shrink=False))


@pytest.mark.parametrize("spool", [Spool, Crowded])
def test_a_worker_that_lost_its_job_spoils_no_result(spool: type[Spool]) -> None:
    machine = type("Machine", (JobsMachine,), {"spool": spool})()
    first = machine.begin()
    machine.worker_is_taken_for_dead(first)
    second = machine.take("b")
    assert second.claim.job.id == first.claim.job.id
    machine.write(second, finishes=True)
    fault = pytest.raises(AssertionError, match="another attempt's result")
    with nullcontext() if spool is Spool else fault:
        machine.write(first, finishes=True)
        machine.all_is_as_promised()
    machine.teardown()
