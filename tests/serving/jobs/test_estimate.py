"""How long a job still takes."""

from __future__ import annotations

import pytest

from serving.jobs.estimate import Habit, habit, left_s
from serving.jobs.record import Job, State

USUAL = Habit(10.0, {"read": 1.0, "network": 8.0, "write": 1.0})


def job(state: State = State.RUNNING, started: float = 0.0, **more: object) -> Job:
    return Job("a", "segment", {}, "o", 0, state, 0.0, started, **more)  # type: ignore[arg-type]


def done(seconds: float, steps: dict[str, float]) -> Job:
    report = {"report": {"seconds": {**steps, "total": sum(steps.values())}}}
    return job(State.DONE, ended=seconds, result=report)


def test_a_habit_is_the_median_of_recent_jobs() -> None:
    assert habit([]) is None
    recent = [done(2.0, {"read": 1.0}), done(4.0, {"read": 3.0}), done(90.0, {"read": 8.0})]
    assert habit(recent) == Habit(4.0, {"read": 3.0})
    assert habit([job(State.DONE, ended=3.0, result={"report": {}})]) == Habit(3.0, {})


def test_progress_counts_by_what_steps_usually_take() -> None:
    assert USUAL.done("network", 0.5) == 0.5
    assert USUAL.done("write", 1.0) == 1.0
    assert USUAL.done("unheard-of", 0.5) == USUAL.done(None, 0.0) == 0.0


def test_a_slow_job_is_judged_by_its_own_pace() -> None:
    # Half of the work took 40 s, so the other half will.
    assert USUAL.left_s(job(step="network", part=0.5), 40.0) == pytest.approx(40.0)
    # Too early to tell: what is usual, less the time since.
    assert USUAL.left_s(job(step="read", part=0.0), 4.0) == 6.0
    assert USUAL.left_s(job(), 30.0) == 0.0


def test_a_waiting_job_waits_for_those_ahead() -> None:
    waiting = job(State.QUEUED)
    running = [job(step="network", part=0.5, started=-5.0)]
    # Alone; behind one that needs 5 s more; behind two more; with a second worker that is free.
    assert left_s(waiting, USUAL, 0, [], 1, 0.0) == 10.0
    assert left_s(waiting, USUAL, 0, running, 1, 0.0) == pytest.approx(15.0)
    assert left_s(waiting, USUAL, 2, running, 1, 0.0) == pytest.approx(35.0)
    assert left_s(waiting, USUAL, 0, running, 2, 0.0) == 10.0
    assert left_s(waiting, USUAL, 1, running, 2, 0.0) == pytest.approx(15.0)
