"""Answers a second of a service with several clients at once, and whether any client waits longer.

    python -m benchmarks.concurrency [CT] [--clients 1 2 4 8] [--requests N] [--repeats N]
                                     [--model NAME] [--json FILE]

A service with its default settings answers over HTTP on loopback. A client sends the same CT, waits
for all of its masks and sends it again, until a level has had its N answers: with c clients c
requests are in flight. Levels run in turns; throughput is N over the seconds from the first request
to the last answer, and the ratio is of medians over turns. With c requests always in flight a fair
latency is c over the throughput (Little's law); the slowest latency of each turn is held against
it, and the ratio is the median over turns. N is at least twice the clients: when all requests are
sent at once, the slowest has its fair share whatever the order. Without a CT a 512x512x119 phantom
is made.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.cts import phantom
from benchmarks.frame import Bar, Result, arguments, finish, ratio
from imaging.errors import BadParameter
from imaging.limits import MIB
from serving.process import free_port, running, serve_command, serve_environment
from serving.settings import Settings

CLIENTS = (1, 2, 4, 8)
# More clients may not lower the throughput of two, nor may one of them wait for the others.
_FEW = 2
THROUGHPUT_BAR = 1.0
FAIR_BAR = 1.5

_ANSWERS_WITHIN_S = 3600.0


@dataclass(frozen=True)
class Turn:
    """What the clients of one level saw.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: seconds of each request.
        worked: seconds that a worker spent on each, by its report.
    """

    seconds: float
    latencies: tuple[float, ...]
    worked: tuple[float, ...]

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def unfairness(self, clients: int) -> float:
        """The slowest latency over the fair one."""
        return max(self.latencies) * self.throughput / clients


def main() -> int:
    """Measure, print, write; exit code 1 when a bar is missed."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ct = args.ct or phantom(folder)
        result = measure(ct, args.model, args.clients, args.requests, args.repeats, folder)
    return finish(result, args.json)


def measure(
    ct: Path, model: str, clients: Sequence[int], requests: int, repeats: int, folder: Path
) -> Result:
    """A service and its clients, the levels in turns after a warm-up.

    Args:
        ct: one file.
        model: the service's default.
        clients: numbers of them, each a level.
        requests: of a level and turn, all clients together.
        repeats: counted turns.
        folder: for the service.

    Raises:
        BadParameter: fewer requests than twice the clients of a level.
    """
    if requests < 2 * max(clients):
        raise BadParameter(
            f"{requests} requests do not show whether {max(clients)} clients wait alike; ask for "
            f"at least {2 * max(clients)}."
        )
    body = ct.read_bytes()
    found: dict[int, list[Turn]] = {level: [] for level in clients}
    with service(model, folder) as client:
        answer(client, body)
        for _ in range(repeats):
            for level, turns in found.items():
                turns.append(turn(lambda: answer(client, body), level, requests))
    facts = {"ct": ct.name, "model": model, "repeats": repeats, "requests": requests}
    return compared(found, facts)


@contextmanager
def service(model: str, folder: Path) -> Iterator[httpx.Client]:
    """A client of a service of its own, with this machine's defaults but for its spool and model.

    Args:
        model: the service's default.
        folder: for its spool and its log.

    Raises:
        ServiceFailed: it was not ready within a minute.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    own = {"ISLET_SPOOL": str(folder / "spool"), "ISLET_MODEL": model}
    environment = serve_environment({**os.environ, **own})
    with (
        (folder / "log").open("wb") as log,
        running(serve_command("127.0.0.1", port), environment, url, log),
        httpx.Client(base_url=url, timeout=_ANSWERS_WITHIN_S) as client,
    ):
        yield client


def answer(client: httpx.Client, body: bytes) -> float:
    """The seconds that a worker spent on a CT, once all of the answer is here."""
    found = post(client, body)
    found.raise_for_status()
    with zipfile.ZipFile(io.BytesIO(found.content)) as archive:
        return float(json.loads(archive.read("report.json"))["seconds"]["total"])


def post(client: httpx.Client, body: bytes, **asked: str) -> httpx.Response:
    """The answer to a CT, sent piece by piece as programs send files.

    Given all at once, httpx copies what is left of it for every piece that the system takes, and
    takes longer than the service.
    """
    pieces = (body[first : first + MIB] for first in range(0, len(body), MIB))
    length = {"Content-Length": str(len(body))}
    return client.post("/v1/segment", params=asked, content=pieces, headers=length)


def turn(send: Callable[[], float], clients: int, requests: int) -> Turn:
    """So many clients that send one request after the other until all are answered.

    Args:
        send: sends one, waits for its answer, and gives the seconds of work in it.
        clients: threads that send.
        requests: of all together.
    """
    left = itertools.count(1)
    latencies: list[float] = []
    worked: list[float] = []

    def client() -> None:
        while next(left) <= requests:
            start = time.perf_counter()
            work = send()
            latencies.append(time.perf_counter() - start)
            worked.append(work)

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        for sending in [pool.submit(client) for _ in range(clients)]:
            sending.result()
        seconds = time.perf_counter() - start
    return Turn(seconds, tuple(latencies), tuple(worked))


def compared(found: Mapping[int, Sequence[Turn]], facts: Mapping[str, object]) -> Result:
    """The throughput of the most clients against that of fewer, and the shares of all.

    Args:
        found: turns by number of clients.
        facts: to be written beside them.
    """
    most = max(found)
    names = {level: f"{level} clients" for level in found}
    sides = {names[level]: [t.throughput for t in turns] for level, turns in found.items()}
    ratios = {
        f"throughput_{most}_to_{level}": ratio(sides, names[most], names[level])
        for level in found
        if level < most
    }
    ratios |= {
        f"slowest_to_fair_share_{level}": statistics.median(t.unfairness(level) for t in turns)
        for level, turns in found.items()
    }
    bars = {
        f"throughput_{most}_to_{_FEW}": Bar(least=THROUGHPUT_BAR),
        f"slowest_to_fair_share_{most}": Bar(most=FAIR_BAR),
    }
    settings = Settings.from_environment()
    return Result(
        "Answers a second, by the clients that ask at once",
        sides,
        ratios,
        {name: bar for name, bar in bars.items() if name in ratios},
        "1/s",
        {
            **facts,
            "workers": settings.workers,
            "levels": {level: _level(turns) for level, turns in found.items()},
        },
    )


def _level(turns: Sequence[Turn]) -> dict[str, float]:
    """Seconds over all turns; busy is the part of the time in which a worker worked."""
    latencies = [s for turn in turns for s in turn.latencies]
    worked = [s for turn in turns for s in turn.worked]
    return {
        "latency_s": statistics.median(latencies),
        "slowest_s": max(latencies),
        "worked_s": statistics.median(worked),
        "busy": sum(worked) / sum(turn.seconds for turn in turns),
    }


def _arguments() -> argparse.Namespace:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("ct", type=Path, nargs="?")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--requests", type=int, default=16, help="of a level and turn")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
