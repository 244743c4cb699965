"""More work than a service can do, clients that are rude, and disks that take nothing more.

    python -m benchmarks.trials.floods [--seconds N] [--requests N] [--long]

A whole service with a tiny model: CTs of four sizes come at twice the rate
that it can answer, some waited for, some as jobs; then so many requests one after the other, for
what memory they leave; then clients that never end a head, trickle, break off and go away; then
disks without room and disks that may only be read.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.concurrency import turn
from benchmarks.trials import disks, rude
from benchmarks.trials.row import Row
from benchmarks.trials.scans import SHAPES, Scan, labels_of, scans
from benchmarks.trials.show import show
from benchmarks.trials.tree import BROKEN, Tree, tree, until

LONG_S, SHORT_S = 600.0, 30.0
SEED = 8

# Of the arrivals, those that are waited for; the others are jobs.
_AWAITED = 0.7
_OVER = 2.0
# Arrivals, however slow the machine is: more than a queue holds.
_LEAST = 16
QUEUE = 8
_CLIENTS = 64
# Accepted work may take that many times what a full queue takes at the measured capacity.
_PATIENCE = 4.0
# What the memory of a service may grow by, as a part.
_FLAT, _LEAK = 0.05, 0.02
# At it, in the course of the leak trial.
_LOOKS = 10
_DRAINED_WITHIN_S = 600.0


@dataclass(frozen=True)
class Outcome:
    """What became of one arrival.

    Attributes:
        scan: what was sent.
        status: of the answer; 0 where there was none.
        seconds: until it came.
        right: it holds what it must.
        job: to be looked for later, by its number.
    """

    scan: Scan
    status: int
    seconds: float
    right: bool
    job: str | None = None


def trial(seconds: float = LONG_S, requests: int = 500, seed: int = SEED) -> Sequence[Row]:
    """All floods.

    Args:
        seconds: of the flood.
        requests: of the leak trial, after a fifth as many to warm up.
        seed: of sizes and moments.
    """
    return list(rows(seconds, requests, seed))


def rows(seconds: float, requests: int, seed: int = SEED) -> Iterator[Row]:
    """The rows of :func:`trial`, each once it is there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tree(folder / "flood", ISLET_QUEUE=str(QUEUE), ISLET_THREADS="1") as service:
            yield from flood(service, seconds, seed)
            yield leak(service, requests)
        with tree(folder / "rude", ISLET_STALL_S="2") as service:
            yield rude.clients(service, seed)
        yield from disks.trial(folder / "disks", seed)


def flood(service: Tree, seconds: float, seed: int) -> list[Row]:
    """CTs of mixed sizes at twice the capacity.

    Args:
        service: with a queue of ``QUEUE``.
        seconds: that they come.
        seed: of sizes and moments.
    """
    sizes = scans()
    expected = {scan.shape: _reference(service, scan) for scan in sizes}
    capacity = _capacity(service, sizes, random.Random(seed))
    with _memory(service) as held:
        outcomes = _arrivals(service, sizes, expected, capacity * _OVER, seconds, seed)
        jobs = [_ended(service, outcome, expected) for outcome in outcomes if outcome.job]
    waited = [o for o in outcomes if o.status == 200]
    busy = sum(o.status == 429 for o in outcomes)
    survived = sum(o.right for o in outcomes if not o.job) + sum(o.right for o in jobs)
    bound = _PATIENCE * (QUEUE + 1) / capacity
    tenth = max(1, len(held) // 10)
    before, after = (statistics.median(h) for h in (held[tenth : 3 * tenth], held[-2 * tenth :]))
    flat = after <= before * (1 + _FLAT)
    return [
        Row(
            "flood at twice the capacity",
            len(outcomes),
            survived,
            len(outcomes) - survived,
            f"{len(waited) + len(jobs)} done, {busy} told to come back, {seconds:.0f} s at "
            f"{capacity * _OVER:.1f}/s",
        ),
        _latency("answers that are waited for in it", waited, bound),
        _latency("jobs in it, which let those go first", jobs, bound),
        Row(
            "memory in it",
            1,
            int(flat),
            int(not flat),
            f"{before:.0f} to {after:.0f} MB, {100 * (after / before - 1):+.1f}%",
        ),
    ]


def _latency(family: str, outcomes: Sequence[Outcome], bound: float) -> Row:
    """Accepted work that was done within so many seconds."""
    latencies = sorted(o.seconds for o in outcomes)
    within = sum(s <= bound for s in latencies)
    told = (
        f"slowest {latencies[-1]:.1f} s, median {statistics.median(latencies):.1f} s, bound "
        f"{bound:.1f} s"
        if latencies
        else "none was accepted"
    )
    return Row(family, len(latencies), within, len(latencies) - within, told)


def leak(service: Tree, requests: int) -> Row:
    """What requests leave behind in memory, once the service has warmed up.

    Args:
        service: idle.
        requests: counted, from two clients.
    """
    small, large = scans(SHAPES[:2])
    turns = iter(range(sys.maxsize))

    def send() -> float:
        body = (small, large)[next(turns) % 2].body
        status, _ = service.ask_once("/segment", body)
        failed.append(status != 200)
        return 0.0

    def some() -> float:
        turn(send, 2, max(2, requests // _LOOKS))
        return _at_rest(service)

    failed: list[bool] = []
    turn(send, 2, max(2, requests // 5))
    failed.clear()
    looks = [some() for _ in range(_LOOKS)]
    # A worker's memory swings by some MB from one request to the next; what leaks stays.
    before = min(looks[:3])
    growth = min(looks[-3:]) / before - 1
    lost = requests if growth > _LEAK else sum(failed)
    return Row(
        "leaks over many requests",
        requests,
        requests - lost,
        lost,
        f"memory {100 * growth:+.2f}% of {before:.0f} MB",
    )


def _reference(service: Tree, scan: Scan) -> str:
    """The label map of a scan, once it is seen to be right."""
    status, answer = service.ask("/segment", scan.body)
    if status != 200 or not scan.answered_by(answer):
        raise AssertionError(f"the service does not segment {scan.shape}: {status}")
    return labels_of(answer)


def _capacity(service: Tree, sizes: Sequence[Scan], chance: random.Random) -> float:
    """Answers a second to four clients who wait."""

    def send() -> float:
        service.ask_once("/segment", chance.choice(sizes).body)
        return 0.0

    return turn(send, 4, 24).throughput


def _arrivals(
    service: Tree,
    sizes: Sequence[Scan],
    expected: dict[tuple[int, int, int], str],
    rate: float,
    seconds: float,
    seed: int,
) -> list[Outcome]:
    """Send as a crowd does, which does not wait for answers before it sends more."""
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    sending: list[Future[Outcome]] = []
    with ThreadPoolExecutor(_CLIENTS) as clients:
        due = time.monotonic()
        while due < end or len(sending) < _LEAST:
            time.sleep(max(0.0, due - time.monotonic()))
            scan, number = chance.choice(sizes), len(sending)
            send = _await_answer if chance.random() < _AWAITED else _submit
            sending.append(clients.submit(send, service, scan, expected[scan.shape], number))
            due += chance.expovariate(rate)
        return [one.result() for one in sending]


def _await_answer(service: Tree, scan: Scan, expected: str, _: int) -> Outcome:
    began = time.monotonic()
    status, answer = _asked(service, "/segment", scan, {})
    right = status == 429 or (status == 200 and labels_of(answer) == expected)
    return Outcome(scan, status, time.monotonic() - began, right)


def _submit(service: Tree, scan: Scan, _: str, number: int) -> Outcome:
    began = time.monotonic()
    status, answer = _asked(service, "/jobs", scan, {"Idempotency-Key": f"flood-{number}"})
    job = json.loads(answer)["id"] if status == 202 else None
    return Outcome(scan, status, time.monotonic() - began, status == 429, job)


def _asked(service: Tree, path: str, scan: Scan, headers: dict[str, str]) -> tuple[int, bytes]:
    try:
        return service.ask_once(path, scan.body, headers)
    except BROKEN:
        return 0, b""


def _ended(service: Tree, accepted: Outcome, expected: dict[tuple[int, int, int], str]) -> Outcome:
    """An accepted job once it ended, with its seconds in the service."""

    def over() -> bool:
        job.update(json.loads(service.ask(f"/jobs/{accepted.job}")[1]))
        return bool(job["ended"])

    job: dict[str, str] = {}
    until(over, _DRAINED_WITHIN_S)
    began, ended = (datetime.fromisoformat(job[name]) for name in ("created", "ended"))
    status, archive = service.ask(f"/jobs/{accepted.job}/result")
    right = status == 200 and labels_of(archive) == expected[accepted.scan.shape]
    return Outcome(accepted.scan, status, (ended - began).total_seconds(), right)


@contextmanager
def _memory(service: Tree) -> Iterator[list[float]]:
    """MB of the service, about once a second while the block runs; filled when it ends."""
    over = threading.Event()
    held = [service.memory_mb()]

    def sample() -> None:
        while not over.wait(1.0):
            held.append(service.memory_mb())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield held
    finally:
        over.set()
        sampler.join()


def _at_rest(service: Tree) -> float:
    """MB of the service when nothing is asked of it; the median of a few looks."""
    time.sleep(2.0)
    return statistics.median(service.memory_mb() for _ in range(5))


def main() -> int:
    """Try, print; exit code 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SHORT_S, help="of the flood")
    parser.add_argument("--requests", type=int, default=500, help="of the leak trial")
    parser.add_argument("--long", action="store_true", help=f"a flood of {LONG_S:.0f} s")
    args = parser.parse_args()
    found = rows(LONG_S if args.long else args.seconds, args.requests)
    return max(show([row]) for row in found)


if __name__ == "__main__":
    sys.exit(main())
