"""What is known of one job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Where a job stands: it waits, a worker has it, or it ended in one of three ways."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({State.DONE, State.FAILED, State.CANCELLED})


@dataclass(frozen=True)
class Job:
    """One job as it stood when it was read.

    Attributes:
        id: 32 hexadecimal digits, random.
        kind: name in ``serving.workers.work.KINDS``.
        request: what was asked, JSON-serialisable; its keys are the kind's own.
        owner: subject of the token that submitted it.
        priority: higher ones start first, within ``ledger.turn``'s bounds; equal ones in
            order of arrival.
        state: where it stands.
        created: Unix seconds, as all times.
        started: of the last attempt.
        ended: when it was done, failed or was cancelled.
        attempts: how often a worker took it.
        step: what its worker does now.
        part: of that step that is done, 0 to 1.
        model: SHA-256 of the model that made the result.
        result: of a done job: ``files`` (a list of ``name``, ``type``, ``bytes``) and ``report``.
        error: of a failed job: ``code``, ``message``, ``details``.
        cancelling: it runs and was told to stop.
    """

    id: str
    kind: str
    request: dict[str, Any]
    owner: str
    priority: int
    state: State
    created: float
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    step: str | None = None
    part: float = 0.0
    model: str | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    cancelling: bool = False
