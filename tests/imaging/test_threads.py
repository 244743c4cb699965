from __future__ import annotations

import threading

import pytest

from imaging import threads
from imaging.threads import spread, usable_cores


def test_cores_are_at_least_one() -> None:
    assert usable_cores() >= 1


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_every_slice_is_done_once_and_in_order(monkeypatch, cores: int, count: int) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    runs = spread(list, count)
    assert [z for run in runs for z in run] == list(range(count))
    assert len(runs) == min(cores, count)


def test_runs_are_done_at_the_same_time(monkeypatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    both = threading.Barrier(2, timeout=10)
    assert len(spread(lambda run: both.wait(), 2)) == 2


def test_an_error_in_a_thread_is_raised(monkeypatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        spread(lambda run: 1 // run.start, 4)
