"""What a job costs besides its work: against calling ``segment`` directly, and how many are taken.

    python -m benchmarks.jobs [CT] [--model NAME] [--database URL] [--repeats N] [--json FILE]

Both sides run interleaved, one worker process with its model loaded and this process with the
same number of threads; the ratio is of their medians. Without a CT a 512x512x119 phantom is made.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks.cts import phantom
from benchmarks.frame import Bar, Result, arguments, finish, ratio, timed, turns
from models.store import default_store
from serving.engines import Engines
from serving.jobs.jobs import Jobs
from serving.jobs.record import ENDED, Job, State
from serving.jobs.task import Done
from serving.options import Options
from serving.segment import files, segment
from serving.settings import Settings
from serving.workers.crew import Crew
from serving.workers.work import pack

# What a job may cost besides, as a ratio, and in seconds until it starts on an idle service.
RATIO_BAR = 1.1
START_BAR_S = 0.03

_CALLED, _JOB, _START = "segment, called", "the same, a job", "from accepted to start"
_CALLERS, _ACCEPTED = 8, 200
_POLL_S = 0.005
_READY_WITHIN_S = 60.0


def main() -> int:
    """Measure, print, write; exit code 1 when a bar is missed."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ct = args.ct or phantom(folder)
        settings = Settings(spool=folder / "spool", database=args.database, model=args.model)
        result = measure(ct, settings, folder, args.repeats)
    return finish(result, args.json)


def measure(ct: Path, settings: Settings, folder: Path, repeats: int) -> Result:
    """Both sides in turns, then how many jobs are accepted a second.

    Args:
        ct: one file.
        settings: of the jobs and their one worker.
        folder: for what is written.
        repeats: counted turns.
    """
    engines = Engines(default_store(), settings.threads)
    jobs, crew = Jobs(settings), Crew(settings)
    starts: list[float] = []

    def job() -> float:
        seconds, start = _done(ct, settings.model, jobs)
        starts.append(start)
        return seconds

    # The start is that of the job just before.
    measured = {
        _CALLED: timed(lambda: _call(ct, settings, engines, folder / "direct.zip")),
        _JOB: job,
        _START: starts.pop,
    }
    crew.start()
    try:
        await_ready(jobs)
        sides = turns(measured, repeats)
    finally:
        crew.stop()
        jobs.close()
    start_s = statistics.median(sides[_START])
    return Result(
        "What a job costs besides its work",
        sides,
        {"job_to_called": ratio(sides, _JOB, _CALLED), "start_to_bar": start_s / START_BAR_S},
        {"job_to_called": Bar(most=RATIO_BAR), "start_to_bar": Bar(most=1.0)},
        facts={
            "ct": ct.name,
            "model": settings.model,
            "repeats": repeats,
            "start_bar_s": START_BAR_S,
            "accepted_per_s": accepted_per_s(settings, folder),
            "callers": _CALLERS,
        },
    )


def accepted_per_s(settings: Settings, folder: Path) -> float:
    """Jobs of 64 KiB that are on the disk a second, with nobody to do them."""
    jobs = Jobs(replace(settings, spool=folder / "full", queue=_ACCEPTED))
    body = bytes(65536)

    def accept(_: int) -> None:
        with jobs.staged() as staged:
            (staged / "000000").write_bytes(body)
            jobs.submit("segment", Options().to_json(), "benchmark", staged)

    with ThreadPoolExecutor(_CALLERS) as callers:
        start = time.perf_counter()
        list(callers.map(accept, range(_ACCEPTED)))
        seconds = time.perf_counter() - start
    jobs.close()
    return _ACCEPTED / seconds


def await_ready(jobs: Jobs) -> None:
    """Return once a worker has loaded the default model.

    Raises:
        TimeoutError: none did within a minute.
    """
    deadline = time.monotonic() + _READY_WITHIN_S
    while not jobs.ready():
        if time.monotonic() > deadline:
            raise TimeoutError("the worker did not load its model; is it in the store?")
        time.sleep(_POLL_S)


def submit(ct: Path, model: str, jobs: Jobs) -> tuple[Job, float]:
    """The accepted job of one file, and ``time.perf_counter`` as it was submitted."""
    with jobs.staged() as staged:
        shutil.copy(ct, staged / "000000")
        start = time.perf_counter()
        return jobs.submit("segment", Options(model=model).to_json(), "benchmark", staged), start


def await_done(job: Job, jobs: Jobs, look: Callable[[], object] = lambda: None) -> Job:
    """A job once it is done.

    Args:
        job: that was accepted.
        jobs: it is one of.
        look: called every few milliseconds meanwhile.

    Raises:
        IsletError: the job's own error, when it failed.
    """
    while (job := jobs.get(job.id)).state not in ENDED:
        look()
        time.sleep(_POLL_S)
    if job.state is not State.DONE:
        jobs.result(job)
    return job


def _call(ct: Path, settings: Settings, engines: Engines, out: Path) -> None:
    made = segment(ct, Options(model=settings.model), engines, settings.limits)
    pack(Done(files(made), made.report), out)


def _done(ct: Path, model: str, jobs: Jobs) -> tuple[float, float]:
    """Seconds from submit to an end that is seen, and from its record to its start."""
    job, start = submit(ct, model, jobs)
    job = await_done(job, jobs)
    seconds = time.perf_counter() - start
    assert job.started is not None
    return seconds, job.started - job.created


def _arguments() -> argparse.Namespace:
    parser = arguments(__doc__, repeats=5)
    parser.add_argument("ct", type=Path, nargs="?")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--database", help="postgresql://... (default: files)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
