"""A service whose processes are killed, stopped, short of memory or told another time.

Clients submit jobs with keys, as clients that may lose any answer do, while something happens at
seeded moments. In the end every job is there once, done once, and holds its own CT's masks.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.trials.row import Row
from benchmarks.trials.scans import SHAPES, Scan, scan
from benchmarks.trials.tree import Tree, tree, until
from imaging.limits import MIB
from serving.process import free_port

OUT_OF_MEMORY = "out_of_memory"

_CLIENTS = 4
_LIMIT_S = 900.0
_CLOCK = Path(__file__).with_name("clock.c")
_JUMPS_S = (7200, -10800, 39600, -2400, 0, 90, -3600)

# Does something to the service; ``chance`` says when and how.
Fault = Callable[[Tree, random.Random], None]


@dataclass(frozen=True)
class Ended:
    """A client's job in the end.

    Attributes:
        id: of the job.
        right: its result is its own CT's.
        code: of its error, where it failed.
    """

    id: str
    right: bool
    code: str | None = None


def killed(folder: Path, jobs: int, times: int, seed: int) -> Row:
    """SIGKILL of the service, its supervisor and its workers, in turns."""
    found: Counter[str] = Counter()

    def fault(service: Tree, chance: random.Random) -> None:
        what = chance.choice(("service", "service", "supervisor", "workers"))
        found[what] += 1
        service.kill_and_start(what)

    with tree(folder) as service:
        ended = _disturbed([service], jobs, times, fault, random.Random(seed))
        told = ", ".join(f"{n} {what}" for what, n in sorted(found.items()))
        return _row("SIGKILL of service processes", service, ended, f"{times} kills ({told})")


def stopped(folder: Path, jobs: int, times: int, seed: int) -> Row:
    """SIGSTOP of a worker or of all processes for a while, longer than a lease at times."""

    def fault(service: Tree, chance: random.Random) -> None:
        some = service.workers() if chance.random() < 0.5 else service.family()
        service.signal(signal.SIGSTOP, some)
        time.sleep(chance.choice((1.0, 3.0, 14.0)))
        service.signal(signal.SIGCONT, some)

    with tree(folder) as service:
        ended = _disturbed([service], jobs, times, fault, random.Random(seed))
        return _row("SIGSTOP of service processes", service, ended, f"{times} stops of 1 to 14 s")


def starved(folder: Path, jobs: int, times: int, seed: int) -> Row:
    """Workers that get no more memory than they have, for a while."""

    def fault(service: Tree, chance: random.Random) -> None:
        for one in service.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                more = chance.choice((0, 1, 4, 16)) * MIB
                _limit(one.pid, one.memory_info().vms + more)
        time.sleep(chance.uniform(0.5, 3.0))
        for one in service.workers():
            with contextlib.suppress(ProcessLookupError):
                _limit(one.pid, resource.RLIM_INFINITY)

    with tree(folder) as service:
        codes = {OUT_OF_MEMORY, "worker_lost"}
        ended = _disturbed([service], jobs, times, fault, random.Random(seed))
        return _row(
            "workers out of memory", service, ended, f"address space held {times} times", codes
        )


def clocks(folder: Path, jobs: int, times: int, seed: int) -> Row:
    """A machine's clock that jumps by hours, forward and back; nobody may lose a job by it."""
    family = "clock jumps"
    if shutil.which("cc") is None:
        return Row(family, 0, 0, 0, "0 tried: needs a C compiler")
    folder.mkdir(parents=True, exist_ok=True)
    library, added = folder / "clock.so", folder / "clock"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, _CLOCK], check=True)
    added.write_bytes(struct.pack("q", 0))

    def fault(_: Tree, chance: random.Random) -> None:
        with added.open("r+b") as file:
            file.write(struct.pack("q", chance.choice(_JUMPS_S)))

    faked = {"LD_PRELOAD": str(library), "ISLET_CLOCK": str(added)}
    with tree(folder, **faked) as service:
        ended = _disturbed([service], jobs, times, fault, random.Random(seed))
        twice = sum(job["attempts"] > 1 for job in service.listed())
        return _row(family, service, ended, f"{times} jumps of up to 14 h; {twice} begun again")


def two_services(folder: Path, jobs: int, times: int, seed: int) -> Row:
    """Two services over one spool and one store, one of them killed now and then."""
    with tree(folder) as first:
        second = Tree(first.environment, free_port(), folder / "log-2")
        second.start()
        try:
            second.await_ready()

            def fault(_: Tree, chance: random.Random) -> None:
                chance.choice((first, second)).kill_and_start("service")

            ended = _disturbed([first, second], jobs, times, fault, random.Random(seed))
            return _row("two services on one store", first, ended, f"{times} kills of one of them")
        finally:
            second.kill()


def _disturbed(
    services: Sequence[Tree], jobs: int, times: int, fault: Fault, chance: random.Random
) -> list[Ended]:
    """Jobs of several clients while something happens so many times."""
    sizes = [chance.choice(SHAPES) for _ in range(jobs)]
    done = threading.Semaphore(0)

    def client(number: int) -> Ended:
        ended = one_job(services[number % len(services)], scan(sizes[number]), number)
        done.release()
        return ended

    with ThreadPoolExecutor(_CLIENTS) as clients:
        running: list[Future[Ended]] = [clients.submit(client, n) for n in range(jobs)]
        for _ in range(times):
            # So that there is something to lose each time.
            for _ in range(max(1, jobs // (times + 1))):
                done.acquire(timeout=_LIMIT_S)
            time.sleep(chance.uniform(0.0, 1.0))
            fault(services[0], chance)
        return [one.result(_LIMIT_S) for one in running]


def one_job(service: Tree, what: Scan, number: int) -> Ended:
    """Submit a CT and fetch its result, as a client would that may lose any answer."""
    headers = {"Idempotency-Key": f"job-{number}"}
    status, answer = 0, b""

    def taken() -> bool:
        nonlocal status, answer
        status, answer = service.ask("/jobs", what.body, **headers)
        # Refused for now, and nothing was taken.
        return status not in (429, 503)

    until(taken, _LIMIT_S)
    if status != 202:
        return Ended("", False, _code(answer))
    id = json.loads(answer)["id"]

    def over() -> bool:
        nonlocal status, answer
        status, answer = service.ask(f"/jobs/{id}/result")
        return status not in (409, 503)

    until(over, _LIMIT_S)
    if status == 200:
        return Ended(id, what.answered_by(answer))
    return Ended(id, False, _code(answer))


def _row(
    family: str, service: Tree, ended: Sequence[Ended], figure: str, codes: set[str] | None = None
) -> Row:
    """What was lost: jobs that are missing, wrong, there twice, or failed without one of ``codes``.

    Args:
        family: of faults.
        service: with all of the jobs.
        ended: every client's job.
        figure: what was done.
        codes: errors that a job may end with.
    """
    service.await_ready()
    listed = {job["id"]: job for job in service.listed()}
    survived = sum(one.id in listed and (one.right or one.code in (codes or ())) for one in ended)
    once = len({one.id for one in ended}) == len(ended) == len(listed)
    if not once or not _one_result_each(service, listed):
        survived = 0
    failed = Counter(one.code for one in ended if one.code)
    more = "".join(f", {n} {code}" for code, n in failed.items())
    attempts = max(job["attempts"] for job in listed.values())
    unasked = {path.name for path in (service.spool / "jobs").iterdir()} - set(listed)
    if unasked:
        # Its service was lost just before it would have accepted it; its client came again.
        more += f", {len(unasked)} uploads without a job left for an hour"
    figure = f"{figure}, {attempts} attempts at most{more}"
    return Row(family, len(ended), survived, len(ended) - survived, figure)


def _one_result_each(service: Tree, listed: dict[str, Any]) -> bool:
    """Whether each done job soon has one file, and nothing of any job's attempt is left."""
    done = {id for id, job in listed.items() if job["state"] == "done"}

    def tidied() -> bool:
        kept = Counter(p.relative_to(jobs).parts[0] for p in jobs.rglob("*") if p.is_file())
        return {id: count for id, count in kept.items() if id in listed} == dict.fromkeys(done, 1)

    jobs = service.spool / "jobs"
    try:
        until(tidied, 60.0)
    except TimeoutError:
        return False
    return True


def _limit(pid: int, size: int) -> None:
    hard = resource.prlimit(pid, resource.RLIMIT_AS)[1]
    resource.prlimit(pid, resource.RLIMIT_AS, (size, hard))


def _code(answer: bytes) -> str:
    return str(json.loads(answer)["error"]["code"])
