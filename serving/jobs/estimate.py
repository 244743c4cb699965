"""How long a job still takes, judged by the last ones of its kind."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.jobs.record import Job, State

_TOTAL = "total"
# Before a twentieth of the work is done its pace says little.
_FIRST = 0.05


@dataclass(frozen=True)
class Habit:
    """What a kind of job took lately.

    Attributes:
        total: seconds from start to end, median.
        steps: seconds by step, median, in their order; empty where reports do not say.
    """

    total: float
    steps: Mapping[str, float]

    def done(self, step: str | None, part: float) -> float:
        """Share of the work behind a job that is at ``part`` of ``step``, 0 to 1."""
        whole = sum(self.steps.values())
        if step is None or step not in self.steps or whole <= 0:
            return 0.0
        names = list(self.steps)
        before = sum(self.steps[name] for name in names[: names.index(step)])
        return (before + part * self.steps[step]) / whole

    def left_s(self, job: Job, now: float) -> float:
        """Seconds until a job that runs ends."""
        since = 0.0 if job.started is None else max(0.0, now - job.started)
        done = self.done(job.step, job.part)
        if done > _FIRST:
            return since * (1 - done) / done
        return max(0.0, self.total - since)


def habit(recent: Sequence[Job]) -> Habit | None:
    """What the given jobs, all done, took; ``None`` without any."""
    if not recent:
        return None
    spans = [(job.ended or 0.0) - (job.started or 0.0) for job in recent]
    seconds = [(job.result or {}).get("report", {}).get("seconds", {}) for job in recent]
    steps = {
        step: statistics.median([s.get(step, 0.0) for s in seconds])
        for step in seconds[0]
        if step != _TOTAL
    }
    return Habit(statistics.median(spans), steps)


def left_s(
    job: Job, habit: Habit, ahead: int, running: Sequence[Job], workers: int, now: float
) -> float:
    """Seconds until a job ends.

    Args:
        job: that waits or runs.
        habit: of its kind, taken for that of all.
        ahead: jobs that start before it.
        running: jobs that workers have.
        workers: that live, at least 1.
        now: Unix seconds.
    """
    if job.state is State.RUNNING:
        return habit.left_s(job, now)
    # Whoever is free first takes the next job.
    busy = sorted(habit.left_s(other, now) for other in running)
    free = [0.0] * max(0, workers - len(busy)) + busy[:workers]
    for _ in range(ahead):
        free.sort()
        free[0] += habit.total
    return min(free) + habit.total
