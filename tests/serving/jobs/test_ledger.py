"""The ledger against a model of it: whatever happens in whatever order, each job ends once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from imaging.errors import ServiceBusy
from serving.jobs.catalogue import Catalogue
from serving.jobs.ledger import LEASE_S, LOSSES, Claim, Ledger, Order, turn
from serving.jobs.record import Job, State
from serving.jobs.tables import Records
from tests.serving.jobs import postgres

MOST = 4
KEEP_S = 100.0
ERROR = {"code": "not_ct", "message": "The modality is MR.", "details": {}}


@dataclass
class Expected:
    """What the model knows of one job."""

    priority: int
    number: int
    created: float
    state: State = State.QUEUED
    attempts: int = 0
    losses: int = 0
    lease: float = 0.0
    worker: str | None = None
    cancelling: bool = False
    forget: bool = False
    started: float | None = None
    ended: float | None = None
    step: str | None = None
    part: float = 0.0
    result: int | None = None

    def end(self, state: State, now: float) -> None:
        self.state, self.ended, self.worker = state, now, None

    def begin(self, worker: str, now: float) -> None:
        self.attempts += 1
        self.state, self.worker, self.step, self.part = State.RUNNING, worker, None, 0.0
        self.lease, self.started = now + LEASE_S, now

    def again(self) -> None:
        self.state, self.worker, self.step, self.part = State.QUEUED, None, None, 0.0
        self.started = None

    def held(self, claim: Claim) -> bool:
        mine = self.worker == claim.worker and self.attempts == claim.job.attempts
        return self.state is State.RUNNING and mine


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """A ledger, and what should be in it."""

    records: Records
    clock: Clock
    jobs: dict[str, Expected] = field(default_factory=dict)
    endings: list[str] = field(default_factory=list)

    def lose(self, id: str, job: Expected) -> None:
        if job.cancelling:
            self.end(id, State.CANCELLED)
        elif job.losses == LOSSES - 1:
            self.end(id, State.FAILED)
        else:
            job.losses += 1
            job.again()

    def end(self, id: str, state: State) -> None:
        self.jobs[id].end(state, self.clock.now)
        self.endings.append(id)


class Machine(RuleBasedStateMachine):
    """Everything that may happen to jobs; ``url`` names the database."""

    url: ClassVar[str]
    ids = Bundle("ids")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        clock = Clock()
        self.world = World(Records(self.url, clock), clock)
        self.ledger = Ledger(self.world.records, MOST)
        self.catalogue = Catalogue(self.world.records, MOST)
        # One database serves all examples.
        for id in self.catalogue.ids():
            self.ledger.cancel(id)
            self.ledger.lapse(list("ab"))
            self.ledger.forget(id)
        self.mark = self.catalogue.mark()
        self.count = self.arrived = 0

    def teardown(self) -> None:
        self.world.records.close()

    @rule(target=ids, priority=st.sampled_from([0, 10, 20]))
    def submit(self, priority: int) -> object:
        self.count += 1
        id = f"{self.count:032x}"
        waiting = sum(j.state is State.QUEUED for j in self.world.jobs.values())
        order = Order("segment", {"n": self.count}, "anna", priority)
        if waiting >= MOST:
            with pytest.raises(ServiceBusy):
                self.ledger.submit(order, id, 1)
            return multiple()
        job, _ = self.ledger.submit(order, id, 1)
        assert job.created == self.world.clock.now
        self.arrived += 1
        self.world.jobs[id] = Expected(priority, self.arrived, job.created)
        return id

    @rule(target=claims, id=ids, worker=st.sampled_from("ab"))
    def claim(self, id: str, worker: str) -> object:
        claim = self.ledger.claim(id, worker)
        job = self.world.jobs.get(id)
        if job is None or job.state is not State.QUEUED:
            assert claim is None
            return multiple()
        assert claim is not None
        job.begin(worker, self.world.clock.now)
        assert claim.job.attempts == job.attempts
        return claim

    @rule(claim=claims, part=st.sampled_from([0.0, 0.5]))
    def beat(self, claim: Claim, part: float) -> None:
        job = self.world.jobs.get(claim.job.id)
        expected = job.cancelling if job is not None and job.held(claim) else None
        assert self.ledger.look(claim) is expected
        assert self.ledger.beat(claim, "network", part) is expected
        if expected is not None:
            assert job is not None
            job.lease = self.world.clock.now + LEASE_S
            job.step, job.part = "network", part

    @rule(claim=claims)
    def finish(self, claim: Claim) -> None:
        job = self.world.jobs.get(claim.job.id)
        result = {"files": [], "report": {"attempt": claim.job.attempts}}
        counts = job is not None and job.held(claim) and not job.cancelling
        assert self.ledger.finish(claim, result) is counts
        if counts:
            assert job is not None
            job.result = claim.job.attempts
            self.world.end(claim.job.id, State.DONE)

    @rule(claim=consumes(claims), gives_back=st.booleans())
    def fail(self, claim: Claim, gives_back: bool) -> None:
        job = self.world.jobs.get(claim.job.id)
        held = job is not None and job.held(claim)
        if gives_back:
            self.ledger.give_back(claim)
        else:
            assert self.ledger.fail(claim, ERROR) is held
        if held:
            assert job is not None
            if job.cancelling:
                self.world.end(claim.job.id, State.CANCELLED)
            elif gives_back:
                job.again()
            else:
                self.world.end(claim.job.id, State.FAILED)

    @rule(id=ids, forget=st.booleans())
    def cancel(self, id: str, forget: bool) -> None:
        self.ledger.cancel(id, forget)
        job = self.world.jobs.get(id)
        if job is None:
            return
        job.forget = job.forget or forget
        if job.state is State.QUEUED:
            self.world.end(id, State.CANCELLED)
        elif job.state is State.RUNNING:
            job.cancelling = True

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S + 1, KEEP_S]))
    def wait(self, seconds: float) -> None:
        self.world.clock.now += seconds

    @rule(gone=st.sampled_from(["", "a", "b", "ab"]))
    def lapse(self, gone: str) -> None:
        self.ledger.lapse(list(gone))
        lost = [
            (id, job)
            for id, job in self.world.jobs.items()
            if job.state is State.RUNNING
            and (job.worker in list(gone) or job.lease < self.world.clock.now)
        ]
        # Those that end do so in this order of reasons; the order within one is free.
        for id, job in lost:
            self.world.lose(id, job)

    @rule()
    def expire(self) -> None:
        found = {job.id for job in self.catalogue.overdue(KEEP_S)}
        limit = self.world.clock.now - KEEP_S
        jobs = self.world.jobs.items()
        assert found == {id for id, job in jobs if job.ended and (job.forget or job.ended < limit)}
        # Whoever follows the ends has seen them before they are forgotten.
        self.follow()
        for id in found:
            self.ledger.forget(id)
            del self.world.jobs[id]

    @rule()
    def follow(self) -> None:
        ended, self.mark = self.catalogue.ended_after(self.mark)
        assert sorted(job.id for job in ended) == sorted(self.world.endings)
        self.world.endings.clear()

    @invariant()
    def records_are_as_expected(self) -> None:
        found = {job.id: job for job in self.catalogue.newest(None, None, 1000)}
        assert set(found) == set(self.world.jobs) == self.catalogue.ids()
        for id, job in self.world.jobs.items():
            record = found[id]
            assert (record.state, record.attempts) == (job.state, job.attempts)
            assert record.cancelling == job.cancelling
            assert (record.created, record.started) == (job.created, job.started)
            assert (record.step, record.part) == (job.step, job.part)
            assert record.ended == job.ended
            assert (record.result is not None) == (job.state is State.DONE)
            assert (record.error is not None) == (job.state is State.FAILED)
            if record.result is not None:
                assert record.result["report"]["attempt"] == job.result

    @invariant()
    def turns_are_by_priority_and_arrival(self) -> None:
        waiting = [(i, j) for i, j in self.world.jobs.items() if j.state is State.QUEUED]
        # A level of priority is worth as many later arrivals as may wait.
        expected = sorted(waiting, key=lambda item: item[1].number - MOST * item[1].priority // 10)
        assert list(self.catalogue.queued()) == [id for id, _ in expected]
        assert self.catalogue.waiting() == len(expected)


def run(url: str, examples: int) -> None:
    class Here(Machine):
        pass

    Here.url = url
    few = settings(max_examples=examples, stateful_step_count=40)
    run_state_machine_as_test(Here, settings=few)


def test_the_ledger_over_sqlite(tmp_path: Path) -> None:
    run(f"sqlite:///{tmp_path / 'jobs.db'}", 10)


def test_the_ledger_over_postgresql(sockets: Path) -> None:
    run(postgres.fresh(sockets), 5)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    clock = Clock()
    found = World(Records(f"sqlite:///{tmp_path / 'jobs.db'}", clock), clock)
    yield found
    found.records.close()


def submitted(ledger: Ledger, count: int = 1) -> list[str]:
    ids = [f"{number:032x}" for number in range(count)]
    for id in ids:
        ledger.submit(Order("segment", {}, "anna", 10), id, 1)
    return ids


def read(catalogue: Catalogue, id: str) -> Job:
    job = catalogue.find(id)
    assert job is not None
    return job


def test_a_lease_lasts_from_each_beat_and_what_lapses_begins_anew(world: World) -> None:
    ledger, catalogue = Ledger(world.records, MOST), Catalogue(world.records, MOST)
    (id,) = submitted(ledger)
    for losses in range(LOSSES):
        claim = ledger.claim(id, "a")
        assert claim is not None
        for part in (0.25, 0.5):
            world.clock.now += LEASE_S - 1
            ledger.lapse()
            assert ledger.beat(claim, "network", part) is False
            job = read(catalogue, id)
            assert (job.state, job.step, job.part) == (State.RUNNING, "network", part)
        world.clock.now += LEASE_S + 1
        ledger.lapse()
        assert ledger.beat(claim, "network", 1.0) is None
        assert not ledger.fail(claim, ERROR)
        job = read(catalogue, id)
        assert job.attempts == losses + 1
        if losses < LOSSES - 1:
            assert (job.state, job.step, job.part) == (State.QUEUED, None, 0.0)
            assert job.started is None
    job = read(catalogue, id)
    assert job.state is State.FAILED
    assert job.error is not None
    assert (job.error["code"], job.error["details"]["attempts"]) == ("worker_lost", LOSSES)


def test_a_job_given_back_begins_anew_and_counts_no_loss(world: World) -> None:
    ledger, catalogue = Ledger(world.records, MOST), Catalogue(world.records, MOST)
    (id,) = submitted(ledger)
    for _ in range(LOSSES + 1):
        claim = ledger.claim(id, "a")
        assert claim is not None
        ledger.beat(claim, "network", 0.5)
        ledger.give_back(claim)
        job = read(catalogue, id)
        assert (job.state, job.step, job.part, job.started) == (State.QUEUED, None, 0.0, None)


def test_of_several_jobs_one_alone_is_changed(world: World) -> None:
    """Whatever is done to the one in the middle."""
    ledger, catalogue = Ledger(world.records, MOST), Catalogue(world.records, MOST)
    first, id, last = submitted(ledger, 3)
    claims = {one: ledger.claim(one, "a") for one in (first, id, last)}
    claim = claims[id]
    assert claim is not None
    ledger.beat(claim, "network", 0.5)
    ledger.cancel(id, forget=True)
    others = [read(catalogue, one) for one in (first, last)]
    assert all((other.step, other.cancelling) == (None, False) for other in others)
    assert not ledger.finish(claim, {"files": [], "report": {}})
    assert ledger.fail(claim, ERROR)
    job = read(catalogue, id)
    assert (job.state, job.error) == (State.CANCELLED, None)
    assert [job.id for job in catalogue.overdue(KEEP_S)] == [id]
    ledger.forget(id)
    assert catalogue.ids() == {first, last}
    for one in (first, last):
        assert read(catalogue, one).state is State.RUNNING


def test_turns_stay_exact_for_very_many_jobs() -> None:
    late = 2**40
    assert turn(10, late, 100) > turn(10, late + 1, 100) > turn(9, late, 100)
    assert turn(30, 1, 100) > turn(30, 2, 100) > turn(20, 1, 100)


def test_no_flood_of_higher_priority_passes_a_job_for_ever() -> None:
    """A full queue of later ones for each level of the interface."""
    assert turn(20, 100, 100) > turn(10, 1, 100) > turn(20, 102, 100)
    assert turn(30, 16, 8) > turn(10, 1, 8) > turn(30, 18, 8)
