"""A federation on this machine whose processes are killed and stopped at seeded moments.

One fault in every round, of the server or of a site. The job must end with a model that can be
read; every round must count each site once at most, and no round may be missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.trials.row import Row
from benchmarks.trials.tree import until
from federation.flare.coordinators import coordinator, follow
from federation.flare.home import STATE
from federation.flare.local import COORDINATOR, make_kits, party, serving
from federation.job import Job, scheduled
from federation.progress import TOOK_PART, TRAINING, History
from imaging.errors import IsletError
from models.onnxfile import read_manifest
from tests.federation.sites import homes, job
from tests.training.tiny import NAMES

SITES = ("c1", "c2", "c3")

# Epochs of a round that lasts long enough to be hit in its middle.
_LONG = 20
_LIMIT_S = 1200.0
_STOPS_S = (2.0, 8.0)


def trial(folder: Path, times: int, seed: int) -> Row:
    """A job of so many rounds with a fault in each.

    Args:
        folder: for the kits, the sites and the results; made.
        times: rounds.
        seed: of what happens when.
    """
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    sites = homes(folder / "homes", dict.fromkeys(SITES, NAMES))
    kits = make_kits(sites, folder / "kits")
    began = time.monotonic()
    with contextlib.ExitStack() as running:
        running.enter_context(serving(kits))
        for name in SITES:
            running.callback(running.enter_context(party(kits / name, "site")).terminate)
        with coordinator(kits / COORDINATOR) as session:
            job_id = session.submit(_lasting(times))
        for number in range(1, times + 1):
            _await_round(kits, job_id, number)
            time.sleep(chance.uniform(0.0, 2.0))
            kit = kits / chance.choice(("server", *SITES))
            found[_disturb(kit, chance)] += 1
        standing = follow(kits / COORDINATOR, job_id, lambda _: None)
        with coordinator(kits / COORDINATOR) as session:
            session.fetch(job_id, folder / "results")
    sound = standing.state == "completed" and _sound(folder / "results", times)
    told = ", ".join(f"{n} {what}" for what, n in sorted(found.items()))
    survived = times if sound else 0
    figure = f"{told}; {standing.state} after {time.monotonic() - began:.0f} s"
    return Row("federation processes", times, survived, times - survived, figure)


def _lasting(rounds: int) -> Job:
    """A job whose rounds last some seconds each."""
    short = job(rounds=rounds, max_sites=len(SITES), grace_s=60.0)
    recipe = scheduled(short.recipe, rounds, _LONG)
    return dataclasses.replace(short, recipe=recipe, local_epochs=_LONG, round_timeout_s=_LIMIT_S)


def _await_round(kits: Path, job_id: str, number: int) -> None:
    """Return once some site trains in a round, in any attempt at it, or a later one."""
    path = kits / "server" / STATE / job_id / "rounds.json"

    def there() -> bool:
        if not path.exists():
            return False
        rounds = History.load(path).rounds
        reached = [made for made in rounds if _number(made.label) >= number]
        return any(e.state in (TRAINING, TOOK_PART) for made in reached for e in made.entries)

    until(there, _LIMIT_S)


def _disturb(kit: Path, chance: random.Random) -> str:
    """Kill a party's engine, or stop it with all that it started for a while."""
    who = "server" if kit.name == "server" else "site"
    text = (kit / "supervisor.txt").read_text()
    engine = psutil.Process(int(re.findall(r"process (\d+)", text)[-1]))
    if chance.random() < 0.5:
        engine.kill()
        return f"kills of a {who}"
    family = [engine, *engine.children(recursive=True)]
    _each(family, lambda one: one.send_signal(signal.SIGSTOP))
    time.sleep(chance.uniform(*_STOPS_S))
    _each(family, lambda one: one.send_signal(signal.SIGCONT))
    return f"stops of a {who}"


def _each(family: list[Any], do: Callable[[Any], object]) -> None:
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            do(one)


def _sound(results: Path, rounds: int) -> bool:
    """Whether the model can be read, and each round ended once with each site once at most."""
    try:
        read_manifest(results / "global.onnx")
        history = History.load(results / "rounds.json")
    except (IsletError, OSError):
        return False
    for made in history.rounds:
        took = Counter(e.site for e in made.entries if e.state == TOOK_PART)
        if max(took.values(), default=0) > 1:
            return False
    last = {_number(made.label): made for made in history.rounds}
    whole = all(any(e.state == TOOK_PART for e in made.entries) for made in last.values())
    return sorted(last) == list(range(1, rounds + 1)) and whole


def _number(label: str) -> int:
    """Of a round; a further attempt at it is ``2.2``."""
    first = label.partition(".")[0]
    return int(first) if first.isdecimal() else 0
