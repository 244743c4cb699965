"""Peak resident memory of a worker of the service that does one job, by the length of the scan.

    python -m benchmarks.memory [--slices 119 300 700] [--model NAME] [--repeats N] [--json FILE]

Each size has a worker process of its own, as ``islet work`` and the service start them: its memory
when its model is loaded, the system's own mark of its peak (VmHWM) after one job of a 512x512xN
NIfTI, and what it holds a second after. Sizes run in turns. MB are 2**20 bytes. Which step holds
how much is sampled every few milliseconds, so a step's figure may lie below the peak.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cts import phantom
from benchmarks.frame import Bar, Result, arguments, finish
from benchmarks.jobs import await_done, await_ready, submit
from imaging.limits import MIB
from imaging.read import read_volume
from serving.jobs.jobs import Jobs
from serving.jobs.record import Job
from serving.settings import Settings
from serving.workers.crew import Crew

# What a worker may take, MB, by the number of slices.
BARS_MB = {300: 1000, 700: 1500}
SLICES = (119, 300, 700)

_SETTLED_S = 1.0
# Of two bytes each, as CTs are stored.
_VOXEL_BYTES = 2


@dataclass(frozen=True)
class Visit:
    """What one worker took, MB.

    Attributes:
        idle: with its model loaded.
        peak: at most, from its start on.
        left: after the job.
        steps: at most in each step of the job, sampled.
    """

    idle: float
    peak: float
    left: float
    steps: Mapping[str, float]


def main() -> int:
    """Measure, print, write; exit code 1 when a bar is missed."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cts = {slices: phantom(folder, slices) for slices in args.slices}
        settings = Settings(spool=folder / "spool", model=args.model)
        result = measure(cts, settings, args.repeats)
    code = finish(result, args.json)
    for slices, steps in result.facts["steps_mb"].items():
        print(f"{slices} slices: " + ", ".join(f"{step} {mb:.0f}" for step, mb in steps.items()))
    return code


def measure(cts: Mapping[int, Path], settings: Settings, repeats: int) -> Result:
    """Workers that do one job each, the sizes in turns.

    Args:
        cts: a NIfTI file by its number of slices.
        settings: of the workers; below their spool every worker has one of its own.
        repeats: workers of each size.
    """
    visits: dict[int, list[Visit]] = {slices: [] for slices in cts}
    for turn in range(repeats):
        for slices, ct in cts.items():
            own = replace(settings, spool=settings.spool / f"{turn}-{slices}", workers=1)
            visits[slices].append(visit(ct, own))
    volumes = {n: read_volume(ct).array.size * _VOXEL_BYTES / MIB for n, ct in cts.items()}
    return compared(visits, volumes, settings.model)


def visit(ct: Path, settings: Settings) -> Visit:
    """The memory of a fresh worker that does one job.

    Args:
        ct: its input, one file.
        settings: with a spool that nothing else uses, and one worker.
    """
    jobs, crew = Jobs(settings), Crew(settings)
    crew.start()
    try:
        await_ready(jobs)
        (worker,) = jobs.workers()
        pid = worker["pid"]
        idle = memory_mb(pid, "VmRSS")
        seen: list[tuple[float, float]] = []
        job = await_done(
            submit(ct, settings.model, jobs)[0],
            jobs,
            lambda: seen.append((time.time(), memory_mb(pid, "VmRSS"))),
        )
        time.sleep(_SETTLED_S)
        # The mark is read last: what is loaded between two readings is in it.
        left = memory_mb(pid, "VmRSS")
        return Visit(idle, memory_mb(pid, "VmHWM"), left, by_step(job, seen))
    finally:
        crew.stop()
        jobs.close()


def memory_mb(pid: int, name: str) -> float:
    """A process's ``VmRSS`` (resident now) or ``VmHWM`` (at most so far), MB; Linux only."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kib) / 1024


def by_step(job: Job, seen: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The most that was seen in each step of a job that is done.

    The steps' seconds are the report's own: the record tells its step four times a second only.

    Args:
        job: with its result.
        seen: Unix seconds, and what was held then.
    """
    assert job.started is not None
    assert job.result is not None
    found: dict[str, float] = {}
    seconds = dict(job.result["report"]["seconds"])
    del seconds["total"]
    begins = job.started
    for step, lasts in seconds.items():
        held = [value for when, value in seen if begins <= when < begins + lasts]
        begins += lasts
        if held:
            found[step] = max(held)
    return found


def compared(
    visits: Mapping[int, Sequence[Visit]], volumes_mb: Mapping[int, float], model: str
) -> Result:
    """Peaks against the volumes and against the bars.

    Args:
        visits: by number of slices.
        volumes_mb: each size's voxels as int16.
        model: that was loaded.
    """
    sides: dict[str, list[float]] = {}
    ratios: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for slices, found in visits.items():
        for moment in ("idle", "peak", "left"):
            sides[f"{slices} slices, {moment}"] = [getattr(v, moment) for v in found]
        peak = statistics.median(v.peak for v in found)
        ratios[f"peak_to_volume_{slices}"] = peak / volumes_mb[slices]
        if slices in BARS_MB:
            ratios[f"peak_to_bar_{slices}"] = peak / BARS_MB[slices]
            bars[f"peak_to_bar_{slices}"] = Bar(most=1.0)
    return Result(
        "Memory of a worker that does one job",
        sides,
        ratios,
        bars,
        "MB",
        {
            "model": model,
            "bars_mb": BARS_MB,
            "volumes_mb": dict(volumes_mb),
            "steps_mb": {slices: _steps(found) for slices, found in visits.items()},
        },
    )


def _steps(visits: Sequence[Visit]) -> dict[str, float]:
    """Medians; short steps are not seen in every visit."""
    names = dict.fromkeys(name for visit in visits for name in visit.steps)
    return {
        name: statistics.median(v.steps[name] for v in visits if name in v.steps) for name in names
    }


def _arguments() -> argparse.Namespace:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--slices", type=int, nargs="+", default=list(SLICES))
    parser.add_argument("--model", default="starter")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
