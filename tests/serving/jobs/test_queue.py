"""The queue hands ids out in their order, wakes who waits, and gives each once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.jobs.queue import Queue, open_queue


@pytest.fixture
def queues(database: str | None, tmp_path: Path) -> Iterator[tuple[Queue, Queue]]:
    """The same queue, opened twice."""
    both = open_queue(tmp_path, database), open_queue(tmp_path, database)
    yield both
    for queue in both:
        queue.close()


def test_the_highest_turn_goes_first_and_each_id_once(queues: tuple[Queue, Queue]) -> None:
    here, there = queues
    for id, turn in (("a", 9.5), ("b", 20.0), ("c", 9.25)):
        here.put(id, turn)
    assert there.entries() == {"a", "b", "c"}
    assert [there.take(0.0), here.take(0.0), there.take(0.0)] == ["b", "a", "c"]
    assert here.take(0.0) is None
    assert here.entries() == set()


def test_who_waits_is_woken(queues: tuple[Queue, Queue]) -> None:
    here, there = queues
    # PostgreSQL tells only who has begun to listen.
    assert here.take(0.01) is None
    put: list[float] = []

    def later() -> None:
        put.append(time.monotonic())
        there.put("a", 1.0)

    timer = threading.Timer(0.3, later)
    timer.start()
    assert here.take(20.0) == "a"
    assert time.monotonic() - put[0] < 2
    timer.join()


def test_nothing_comes_in_time(queues: tuple[Queue, Queue]) -> None:
    began = time.monotonic()
    assert queues[0].take(0.2) is None
    assert 0.15 < time.monotonic() - began < 2


def test_a_bell_that_nobody_hears_does_no_harm(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, None)
    bell = tmp_path / "bell"
    with bell.open("r+b", buffering=0) as file:
        file.write(b"!" * 65536)
    queue.put("a", 1.0)
    assert queue.take(0.0) == "a"
    queue.close()


def test_ids_survive_the_process(database: str | None, tmp_path: Path) -> None:
    first = open_queue(tmp_path, database)
    first.put("a", 1.0)
    first.close()
    second = open_queue(tmp_path, database)
    assert second.take(0.0) == "a"
    second.close()
