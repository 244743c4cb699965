"""The command; see the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.trials import fuzzing
from benchmarks.trials.fuzzing.campaign import EXECUTIONS, TARGETS


def main() -> int:
    """Fuzz, print the rows; exit code 1 where something crashed."""
    parser = argparse.ArgumentParser(description=(fuzzing.__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--executions", type=int, default=EXECUTIONS, help="of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for files that crash")
    args = parser.parse_args()
    unknown = sorted(set(args.targets) - set(TARGETS))
    if unknown:
        parser.error(f"there is no target {unknown}; there are {', '.join(TARGETS)}")
    rows = fuzzing.trial(args.executions, args.targets, args.seed, args.keep)
    for row in rows:
        print(f"{row.family}: {row.tried} tried, {row.lost} lost, {row.figure}", flush=True)
    return 1 if any(row.lost for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
