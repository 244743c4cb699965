"""Floods and faults on a whole service, at toy size; ``benchmarks.trials`` has the long ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.trials import disks, floods, killed, rude
from benchmarks.trials.tree import tree

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_flood_and_rude_clients_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    queue = str(floods.QUEUE)
    with tree(tmp_path, ISLET_QUEUE=queue, ISLET_STALL_S="2", ISLET_THREADS="1") as service:
        flood, awaited, jobs, _ = floods.flood(service, 3.0, 8)
        assert flood.tried > floods.QUEUE
        assert flood.lost == 0, flood
        assert awaited.lost == 0, awaited
        assert jobs.lost == 0, jobs
        rudeness = rude.clients(service, 8, each=2)
        assert rudeness.lost == 0, rudeness


def test_disks_without_room_and_disks_that_may_only_be_read(tmp_path: Path) -> None:
    if not disks.may_mount(tmp_path):
        pytest.skip("disks are mounted, which needs root")
    for row in disks.trial(tmp_path / "disks", 8, each=1):
        assert row.lost == 0, row


def test_clocks_that_jump_and_workers_without_memory_lose_no_job(tmp_path: Path) -> None:
    jumps = killed.clocks(tmp_path / "clocks", 6, 4, 8)
    assert jumps.lost == 0, jumps
    memory = killed.starved(tmp_path / "memory", 6, 3, 8)
    assert memory.lost == 0, memory
