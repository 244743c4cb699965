"""What a job costs besides its work: against calling ``segment`` directly, and how many are taken.

    python -m benchmarks.jobs [CT] [--model NAME] [--database URL] [--repeats N] [--json FILE]

Both sides run interleaved, one worker process with its model loaded and this process with the
same number of threads; the ratio is of their medians. Without a CT a 512x512x119 phantom is made.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.overhead import _phantom
from imaging.threads import usable_cores
from models.store import default_store
from serving.engines import Engines
from serving.jobs.jobs import Jobs
from serving.jobs.record import ENDED, State
from serving.jobs.task import Done
from serving.options import Options
from serving.segment import files, segment
from serving.settings import Settings
from serving.workers.crew import Crew
from serving.workers.work import pack

# What a job may cost besides, as a ratio, and in seconds until it starts on an idle service.
RATIO_BAR = 1.1
START_BAR_S = 0.03

_CALLERS, _ACCEPTED = 8, 200
_POLL_S = 0.005
_READY_WITHIN_S = 60.0


def main() -> int:
    """Measure, print, write; exit code 1 when a bar is missed."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ct = args.ct or _phantom(folder)
        settings = Settings(spool=folder / "spool", database=args.database, model=args.model)
        result = measure(ct, settings, folder, args.repeats)
        result["accepted_per_s"] = accepted_per_s(settings, folder)
    ratio, start = result["ratio"], result["start_s"]
    print(f"segment, called  {result['called_s']:.3f} s (median)")
    print(f"the same, a job  {result['job_s']:.3f} s")
    print(f"ratio {ratio:.3f} (bar {RATIO_BAR})")
    print(f"from accepted to start {1000 * start:.1f} ms (bar {1000 * START_BAR_S:g})")
    print(f"jobs accepted {result['accepted_per_s']:.0f} a second, by {_CALLERS} callers")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return int(ratio > RATIO_BAR or start > START_BAR_S)


def measure(ct: Path, settings: Settings, folder: Path, repeats: int) -> dict[str, Any]:
    """Interleaved runs of both sides after one warm-up; medians."""
    engines = Engines(default_store(), settings.threads)
    jobs, crew = Jobs(settings), Crew(settings)
    crew.start()
    called, done, starts = [], [], []
    try:
        _await_ready(jobs)
        for turn in range(repeats + 1):
            direct = _call(ct, settings, engines, folder / "direct.zip")
            whole, start = _submit(ct, settings, jobs)
            if turn:
                called.append(direct)
                done.append(whole)
                starts.append(start)
    finally:
        crew.stop()
        jobs.close()
    medians = {
        "called_s": statistics.median(called),
        "job_s": statistics.median(done),
        "start_s": statistics.median(starts),
    }
    ratio = medians["job_s"] / medians["called_s"]
    machine = {"cores": usable_cores()}
    return {"ct": ct.name, "machine": machine, "repeats": repeats, "ratio": ratio, **medians}


def accepted_per_s(settings: Settings, folder: Path) -> float:
    """Jobs of 64 KiB that are on the disk a second, with nobody to do them."""
    jobs = Jobs(replace(settings, spool=folder / "full", queue=_ACCEPTED))
    body = bytes(65536)

    def submit(_: int) -> None:
        with jobs.staged() as staged:
            (staged / "000000").write_bytes(body)
            jobs.submit("segment", Options().to_json(), "benchmark", staged)

    with ThreadPoolExecutor(_CALLERS) as callers:
        start = time.perf_counter()
        list(callers.map(submit, range(_ACCEPTED)))
        seconds = time.perf_counter() - start
    jobs.close()
    return _ACCEPTED / seconds


def _call(ct: Path, settings: Settings, engines: Engines, out: Path) -> float:
    start = time.perf_counter()
    made = segment(ct, Options(model=settings.model), engines, settings.limits)
    pack(Done(files(made), made.report), out)
    return time.perf_counter() - start


def _submit(ct: Path, settings: Settings, jobs: Jobs) -> tuple[float, float]:
    """Seconds from submit to an end that is seen, and from its record to its start."""
    with jobs.staged() as staged:
        shutil.copy(ct, staged / "000000")
        start = time.perf_counter()
        job = jobs.submit("segment", Options(model=settings.model).to_json(), "me", staged)
    while (job := jobs.get(job.id)).state not in ENDED:
        time.sleep(_POLL_S)
    seconds = time.perf_counter() - start
    if job.state is not State.DONE or job.started is None:
        jobs.result(job)
        raise AssertionError(job.state)
    return seconds, job.started - job.created


def _await_ready(jobs: Jobs) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while not jobs.ready():
        if time.monotonic() > deadline:
            raise TimeoutError("the worker did not load its model; is it in the store?")
        time.sleep(_POLL_S)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("ct", type=Path, nargs="?")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--database", help="postgresql://... (default: files)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
