"""A federation of one machine that is killed without a word goes on in the round it was in."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from federation.flare.home import environment
from federation.flare.local import publish, run_local
from federation.home import Home
from federation.job import Job
from federation.policy import FACTS, Policy
from federation.progress import History
from models.store import Store
from tests.federation.sites import flat_job, write_blocks

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROUNDS = 10
_LIMIT_S = 180.0
_RUN = """
import sys
from pathlib import Path
from federation.flare.local import run_local
from tests.e2e.test_federation_local import job_and_sites

def say(standing):
    if standing.history and len(standing.history.rounds) > 2:
        print("under way", flush=True)

run_local(*job_and_sites(Path(sys.argv[1])), Path(sys.argv[1]) / "fed", say)
"""


def job_and_sites(out: Path) -> tuple[Job, list[Home]]:
    sites = [
        Home(
            name,
            out / name,
            (out / f"data-{name}",),
            out / "stores" / name,
            Policy(may_leave=FACTS),
        )
        for name in ("c1", "c2")
    ]
    return flat_job(rounds=ROUNDS), sites


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    for place, name in enumerate(("c1", "c2")):
        write_blocks(tmp_path / f"data-{name}", 10 * place, 2)
    command = [sys.executable, "-c", _RUN, str(tmp_path)]
    with subprocess.Popen(command, env=environment(1), stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "under way\n"
        run.kill()
    kits = tmp_path / "fed" / "kits"
    deadline = time.monotonic() + _LIMIT_S
    while supervisors(kits):
        assert time.monotonic() < deadline, "what a killed run started outlives it"
        time.sleep(0.5)

    job, sites = job_and_sites(tmp_path)
    results = run_local(job, sites, tmp_path / "fed")
    rounds = History.load(results / "rounds.json").rounds
    assert sorted({made.number for made in rounds}) == list(range(1, ROUNDS + 1))
    again = [made.number for made in rounds if made.attempt > 1]
    assert len(again) <= 1, "at most the round that was under way is begun anew"
    assert rounds[2].started < rounds[-1].started
    references = publish(job, sites, results, tmp_path / "store")
    assert references == ["tiny@1 (global)", "tiny@2 (site-c1)", "tiny@3 (site-c2)"]
    assert publish(job, sites, results, tmp_path / "store") == references
    found = Store(tmp_path / "store", behind=()).resolve("tiny@global").manifest
    assert found.provenance.round == ROUNDS


def supervisors(kits: Path) -> list[int]:
    """The processes that keep kits of this folder running."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(kits) in line and "federate" in line:
                found.append(int(entry.name))
    return found
