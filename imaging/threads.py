"""Work on volumes, spread over the cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut by the control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores or 1
    if quota == "max":
        return cores or 1
    return max(1, min(cores or 1, math.ceil(int(quota) / int(period))))


def spread(work: Callable[[range], Result], count: int) -> list[Result]:
    """Do ``work`` on slices 0 to ``count - 1``, one run of neighbouring slices per core.

    numpy's operations let other threads run. A run of slices, not one at a time, so that ``work``
    can keep its buffers: fresh memory costs more than most sums.

    Args:
        work: given its slices; must not depend on the others' results.
        count: number of slices.

    Returns:
        What each run gave, in the order of the slices.
    """
    parts = min(usable_cores(), count)
    ends = [count * part // max(parts, 1) for part in range(parts + 1)]
    runs = list(map(range, ends[:-1], ends[1:]))
    if len(runs) < 2:
        return [work(run) for run in runs]
    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(work, runs))
