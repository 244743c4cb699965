"""Sites with valid certificates that send NaN, another shape, or are three times slower."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.flare.coordinators import coordinator, follow
from federation.flare.local import COORDINATOR, make_kits, party, serving
from federation.progress import TOOK_PART, History
from tests.federation.sites import flat_job, homes
from tests.training.tiny import NAMES

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROGUES = ("r-nan", "r-shape", "r-slow")
HONEST = ("c1", "c2")


@contextlib.contextmanager
def behaving(kind: str) -> Iterator[None]:
    """Processes that are started meanwhile are such rogues."""
    before = dict(os.environ)
    folder = str(Path(__file__).parent / "rogues")
    os.environ |= {"ISLET_ROGUE": kind, "PYTHONPATH": folder}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Of a job of two rounds among two honest sites and three rogues."""
    out = tmp_path_factory.mktemp("rogues")
    sites = homes(out / "homes", dict.fromkeys((*HONEST, *ROGUES), NAMES))
    kits = make_kits(sites, out / "kits")
    with contextlib.ExitStack() as stack:
        stack.enter_context(serving(kits))
        for name in HONEST:
            stack.enter_context(party(kits / name, "site"))
        for name in ROGUES:
            with behaving(name.removeprefix("r-")):
                stack.enter_context(party(kits / name, "site"))
        until_joined(kits / "server" / "log.txt", (*HONEST, *ROGUES))
        with coordinator(kits / COORDINATOR) as session:
            job_id = session.submit(flat_job(3, grace_s=120.0))
        standing = follow(kits / COORDINATOR, job_id, lambda _: None)
        assert standing.state == "completed"
        with coordinator(kits / COORDINATOR) as session:
            session.fetch(job_id, out / "results")
    return History.load(out / "results" / "rounds.json")


def until_joined(log: Path, sites: tuple[str, ...]) -> None:
    """Wait for all sites to be logged in, so that none misses the first round."""
    deadline = time.monotonic() + 300
    while not all(f"New client {site}@" in log.read_text() for site in sites):
        assert time.monotonic() < deadline, "not all sites came"
        time.sleep(0.5)


def states(history: History, site: str) -> set[str]:
    return {e.state for made in history.rounds for e in made.entries if e.site == site}


def test_honest_sites_take_part_in_every_round(history: History) -> None:
    assert [made.label for made in history.rounds] == ["1", "2", "3"]
    for site in HONEST:
        assert states(history, site) == {TOOK_PART}


@pytest.mark.parametrize("site", ["r-nan", "r-shape"])
def test_updates_that_would_spoil_the_model_are_refused(history: History, site: str) -> None:
    assert states(history, site) == {"refused: update_refused"}


def test_a_slow_site_is_waited_for(history: History) -> None:
    assert TOOK_PART in states(history, "r-slow")
    last = {e.site: e for e in history.rounds[-1].entries}
    assert last["r-slow"].state == TOOK_PART
    # It says itself how long it trained; the round lasted longer than that by its dawdling.
    assert history.rounds[-1].seconds > 2 + max(e.seconds or 0 for e in last.values())
