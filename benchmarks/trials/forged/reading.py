"""Cases through the reader, each in a process of its own with bounds on time and memory."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.trials.forged.case import LIMITS, Case, Seen, seen_in
from imaging.errors import IsletError
from imaging.limits import MIB
from imaging.read import read_volume

# Of the processor: a minute of waiting for it is not held against a case.
CPU_S = 30
WALL_S = 300.0
# Beyond what the process has before it reads.
MEMORY = 1024 * MIB
AT_ONCE = 2
_PRELOADED = ["benchmarks.trials.forged.reading", "imaging.read", "SimpleITK"]


@dataclass(frozen=True)
class Read:
    """What reading a case took.

    Attributes:
        seen: what came of it.
        cpu_s: seconds of the processor; 0 where the process was lost.
        memory_mb: peak beyond what the process had before; 0 where it was lost.
    """

    seen: Seen
    cpu_s: float = 0.0
    memory_mb: float = 0.0


def read_all(cases: Sequence[tuple[Case, Path]], cpu_s: int = CPU_S) -> Iterator[Read]:
    """Read every case, in its order.

    Args:
        cases: with what was written for each.
        cpu_s: seconds of the processor that each may take.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield from threads.map(lambda job: _in_process(context, job[0], job[1], cpu_s), cases)


def _in_process(
    context: multiprocessing.context.ForkServerContext, case: Case, source: Path, cpu_s: int
) -> Read:
    ours, theirs = context.Pipe(duplex=False)
    asked = (theirs, source, case.series, case.headers, cpu_s)
    process = context.Process(target=_read, args=asked)
    process.start()
    theirs.close()
    try:
        found: Read = ours.recv() if ours.poll(WALL_S) else Read(Seen("hung"))
    except EOFError:
        process.join(WALL_S)
        found = Read(Seen(f"crashed: exit code {process.exitcode}"))
    process.kill()
    process.join()
    return found


def _read(answer: Connection, source: Path, series: str | None, headers: bool, cpu_s: int) -> None:
    """The process."""
    before = _peak_mb()
    resource.setrlimit(resource.RLIMIT_AS, (_size() + MEMORY, resource.RLIM_INFINITY))
    start = time.process_time()
    used = int(start) + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (used, used + 1))
    seen = read(source, series, headers)
    answer.send(Read(seen, time.process_time() - start, _peak_mb() - before))


def read(source: Path, series: str | None, headers: bool) -> Seen:
    """What the reader makes of a case, in this process."""
    try:
        return seen_in(read_volume(source, series, LIMITS, headers))
    except IsletError as error:
        return Seen(error.code)
    except Exception as error:  # noqa: BLE001 - that nothing else is raised is what is tried
        return Seen(f"crashed: {type(error).__name__}")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _size() -> int:
    """Bytes of the process's address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
