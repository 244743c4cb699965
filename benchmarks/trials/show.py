"""Prints what one trial found; the whole table is ``benchmarks.reliability``'s."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.trials.row import Row


def show(rows: Sequence[Row]) -> int:
    """Print rows; 1 when anything was lost, else 0."""
    for row in rows:
        print(
            f"{row.family:<48} tried {row.tried:>6}  survived {row.survived:>6}  "
            f"lost {row.lost:>4}  {row.figure}",
            flush=True,
        )
    return int(any(row.lost for row in rows))
