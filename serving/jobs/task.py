"""What passes between a worker and the work of one kind of job."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.engines import Engines
from serving.jobs.record import Job
from serving.settings import Settings


@dataclass(frozen=True)
class Task:
    """One job in a worker's hands.

    Attributes:
        job: its record when it was taken.
        folder: of this attempt: what was uploaded lies in ``input``; the rest is free scratch,
            removed when the attempt is over.
        settings: of the service.
        engines: loaded models over the store.
        progress: to be called with a step and its done part (0 to 1) several times a second;
            raises ``IsletError`` when the work must stop.
    """

    job: Job
    folder: Path
    settings: Settings
    engines: Engines
    progress: Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Done:
    """What work gives.

    Attributes:
        files: name and bytes of each file of the result, made while they are taken.
        report: JSON-serialisable; read after the last file was taken, so it may be filled late.
    """

    files: Iterable[tuple[str, bytes]]
    report: dict[str, Any]


Perform = Callable[[Task], Done]
