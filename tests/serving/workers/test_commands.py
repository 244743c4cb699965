"""What ``islet work`` refuses; that it works is shown with two hosts in ``tests/e2e``."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from imaging.errors import BadParameter
from serving.workers.commands import work


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISLET_SPOOL", str(tmp_path / "spool"))


def test_files_of_one_host_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISLET_DATABASE", raising=False)
    with pytest.raises(BadParameter, match="ISLET_DATABASE"):
        work(argparse.Namespace(workers=None))


def test_no_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISLET_DATABASE", "postgresql:///islet")
    with pytest.raises(BadParameter, match="0 workers"):
        work(argparse.Namespace(workers=0))
