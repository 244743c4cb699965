"""Faults at random moments: processes, clocks, archives and files; a row for each family.

    python -m benchmarks.trials.faults [--jobs N] [--times N] [--seed N] [--only WORD]

Everything accepted must end once and right; everything refused must have a code; nothing
half-written may ever be read. The same seed does the same things, though not to the same instant.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.trials import archives, damage, hospitals, killed
from benchmarks.trials.row import Row
from benchmarks.trials.show import show

SEED = 8
JOBS, TIMES = 24, 6

Family = Callable[[Path], Sequence[Row]]


def trial(jobs: int = JOBS, times: int = TIMES, seed: int = SEED, only: str = "") -> Sequence[Row]:
    """Every family once.

    Args:
        jobs: of clients, in each family of service processes.
        times: that something happens to them meanwhile; files are damaged sixteen times as often.
        seed: of what happens when.
        only: families whose name holds this word.
    """
    return list(rows(jobs, times, seed, only))


def rows(jobs: int, times: int, seed: int, only: str = "") -> Iterator[Row]:
    """The rows of :func:`trial`, each once it is there."""
    families: dict[str, Family] = {
        "damage": lambda _: damage.trial(16 * times, seed),
        "archives": lambda folder: [archives.trial(folder, 4 * times, seed)],
        "killed": lambda folder: [killed.killed(folder, jobs, times, seed)],
        "stopped": lambda folder: [killed.stopped(folder, jobs, times, seed)],
        "memory": lambda folder: [killed.starved(folder, jobs, times, seed)],
        "clocks": lambda folder: [killed.clocks(folder, jobs, times, seed)],
        "services": lambda folder: [killed.two_services(folder, jobs, times, seed)],
        "hospitals": lambda folder: [hospitals.trial(folder, times, seed)],
    }
    with tempfile.TemporaryDirectory() as name:
        for family, tried in families.items():
            if only in family:
                yield from tried(Path(name) / family)


def main() -> int:
    """Try, print; exit code 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", default="", help="families whose name holds this word")
    args = parser.parse_args()
    codes = [show([row]) for row in rows(args.jobs, args.times, args.seed, args.only)]
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
