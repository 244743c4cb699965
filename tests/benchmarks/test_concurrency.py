"""How clients are counted and timed, against servers whose order is known."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.concurrency import Turn, answer, compared, measure, turn
from imaging.errors import BadParameter
from imaging.writers.nifti import write_nifti
from models.store import Store
from tests.serving.live import live_service
from tests.serving.tiny_model import boxes_ct, publish


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    path = tmp_path / "ct.nii.gz"
    write_nifti(boxes_ct()[0], path)
    return path


def turns_of(rate: float, slowest: float = 1.0, requests: int = 16) -> list[Turn]:
    """One turn at a rate, all latencies 1 s but one."""
    latencies = (*[1.0] * (requests - 1), slowest)
    return [Turn(requests / rate, latencies, (0.5,) * requests)]


@pytest.mark.parametrize(("clients", "requests"), [(1, 3), (4, 10)])
def test_that_many_requests_are_in_flight_at_once(clients: int, requests: int) -> None:
    lock, now, most, sent = threading.Lock(), 0, 0, 0
    together = threading.Barrier(clients)

    def send() -> float:
        nonlocal now, most, sent
        with lock:
            now, sent = now + 1, sent + 1
            most, first = max(most, now), sent <= clients
        if first:
            together.wait(10)
        with lock:
            now -= 1
        return 0.25

    found = turn(send, clients, requests)
    assert (most, sent) == (clients, requests)
    assert found.worked == (0.25,) * requests
    assert len(found.latencies) == requests
    assert max(found.latencies) <= found.seconds
    assert found.throughput == pytest.approx(requests / found.seconds)


def test_first_come_first_served_is_fair() -> None:
    # A second each: the first eight queue up, then everyone waits for seven others.
    waits = (*range(1, 9), *[8] * 24)
    assert Turn(32.0, tuple(map(float, waits)), (1.0,) * 32).unfairness(8) == 1.0


def test_a_request_that_waits_for_all_others_is_not_fair() -> None:
    ends, lock = 0, threading.Lock()
    others = threading.Event()

    def send() -> float:
        """The first to come ends last."""
        nonlocal ends
        if threading.get_ident() == first.setdefault("is", threading.get_ident()):
            others.wait(10)
            return 0.0
        time.sleep(0.005)
        with lock:
            ends += 1
            if ends == 31:
                others.set()
        return 0.0

    first: dict[str, int] = {}
    assert turn(send, 4, 32).unfairness(4) > 1.5


def test_the_most_clients_are_held_against_two() -> None:
    found = {1: turns_of(0.5), 2: turns_of(1.0), 8: turns_of(0.9, slowest=20.0)}
    result = compared(found, {"ct": "a"})
    assert result.ratios["throughput_8_to_2"] == pytest.approx(0.9)
    assert result.ratios["throughput_8_to_1"] == pytest.approx(1.8)
    # 8 in flight at 0.9 a second wait 8.9 s each.
    assert result.ratios["slowest_to_fair_share_8"] == pytest.approx(20 / (8 / 0.9))
    assert result.missed() == ["throughput_8_to_2", "slowest_to_fair_share_8"]
    assert result.facts["levels"][8]["slowest_s"] == 20.0
    assert result.facts["levels"][8]["busy"] == pytest.approx(0.45)


def test_medians_of_turns_are_compared() -> None:
    few = [*turns_of(1.0), *turns_of(1.0), *turns_of(9.0)]
    many = [*turns_of(1.0, 99.0), *turns_of(1.0, 8.0), *turns_of(1.0, 8.0)]
    result = compared({2: few, 8: many}, {})
    assert result.ratios["throughput_8_to_2"] == 1.0
    assert result.ratios["slowest_to_fair_share_8"] == 1.0
    assert result.missed() == []


def test_a_service_answers_with_what_its_worker_took(ct: Path, tmp_path: Path) -> None:
    with (
        live_service(tmp_path / "live") as live,
        httpx.Client(base_url=live.url, timeout=60) as client,
    ):
        found = turn(lambda: answer(client, ct.read_bytes()), 2, 4)
        with pytest.raises(httpx.HTTPStatusError):
            answer(client, b"no CT")
    assert len(found.latencies) == 4
    assert all(0 < work < found.seconds for work in found.worked)


def test_too_few_requests_are_refused(ct: Path, tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="at least 16"):
        measure(ct, "starter", (2, 8), 15, 1, tmp_path)


@pytest.mark.e2e
def test_a_real_service_is_measured(
    ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store", behind=())
    publish(store, tmp_path)
    monkeypatch.setenv("ISLET_STORE", str(store.root))
    result = measure(ct, "starter", (1, 2), 4, 1, tmp_path)
    assert list(result.sides) == ["1 clients", "2 clients"]
    assert all(0 < level["busy"] <= 1 for level in result.facts["levels"].values())
    assert (result.facts["workers"], result.facts["requests"]) == (1, 4)
