"""What was done to the software and what it survived: one table of all trials.

    python -m benchmarks.reliability [--only NAME ...] [--long] [--json FILE]

A trial is a module of :mod:`benchmarks.trials`; its rows say how often a fault was tried, how often
the software ended as promised, and how often not. What is lost is named on the standard error, as
are the trials that have ended, and the exit code is 1 where anything is lost. ``--long`` gives
trials that have a length their full one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.frame import machine
from benchmarks.trials.row import Row

# Takes whether the long form is asked for.
Trial = Callable[[bool], Sequence[Row]]

# Of each reader that is fuzzed, in the long form.
_EXECUTIONS = 20_000
_HEAD = ("family", "tried", "survived", "lost", "figure")


def _forged(_: bool) -> Sequence[Row]:
    from benchmarks.trials import forged

    return forged.trial()


def _fuzzing(long: bool) -> Sequence[Row]:
    from benchmarks.trials import fuzzing

    return fuzzing.trial(_EXECUTIONS if long else _EXECUTIONS // 10)


def _floods(long: bool) -> Sequence[Row]:
    from benchmarks.trials import floods

    return floods.trial(floods.LONG_S if long else floods.SHORT_S, 500 if long else 100)


def _faults(_: bool) -> Sequence[Row]:
    from benchmarks.trials import faults

    return faults.trial()


def _numerics(_: bool) -> Sequence[Row]:
    from benchmarks.trials import numerics

    return numerics.trial()


def _promises(_: bool) -> Sequence[Row]:
    from benchmarks.trials import promises

    return promises.trial()


def _poisoning(_: bool) -> Sequence[Row]:
    from benchmarks.trials import poisoning

    return poisoning.trial()


# In the order of the table.
TRIALS: Mapping[str, Trial] = {
    "forged": _forged,
    "fuzzing": _fuzzing,
    "floods": _floods,
    "faults": _faults,
    "numerics": _numerics,
    "promises": _promises,
    "poisoning": _poisoning,
}


def main() -> int:
    """Try, print, write; exit code 1 where anything is lost."""
    args = _arguments()
    start = time.perf_counter()
    rows: list[Row] = []
    for name in args.only or TRIALS:
        began = time.perf_counter()
        rows += TRIALS[name](args.long)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print("\n".join(table(rows)))
    if args.json is not None:
        write(args.json, rows, args.long, time.perf_counter() - start)
    return int(any(row.lost for row in rows))


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows as a table in Markdown, and their sum where there are several."""
    yield _line(_HEAD)
    yield _line(("---", "--:", "--:", "--:", "---"))
    for row in rows:
        yield _line((row.family, row.tried, row.survived, row.lost, row.figure))
    if len(rows) > 1:
        sums = [sum(getattr(row, name) for row in rows) for name in ("tried", "survived", "lost")]
        yield _line(("**all**", *sums, ""))


def write(path: Path, rows: Sequence[Row], long: bool, seconds: float) -> None:
    """Write the rows and the machine as JSON; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {
        "machine": machine(),
        "long": long,
        "seconds": round(seconds, 1),
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(said, indent=1) + "\n")


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(TRIALS), help="some of the trials")
    parser.add_argument("--long", action="store_true", help="the full length of each trial")
    parser.add_argument("--json", type=Path, help="write the table here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
