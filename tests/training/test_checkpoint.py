"""Checkpoints: whole or not at all, and never code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from imaging.errors import DataError
from training.checkpoint import Checkpoint, load, save


def checkpoint(step: int = 3) -> Checkpoint:
    return Checkpoint(
        recipe='{"name": "tiny"}',
        step=step,
        network={"weight": torch.arange(2000.0)},
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        schedule={"last_epoch": 3},
        best=(0.25, 2),
        history=[{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}],
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.pt"
    save(checkpoint(), path)
    found, expected = vars(load(path)), vars(checkpoint())
    assert torch.equal(found.pop("network")["weight"], expected.pop("network")["weight"])
    assert found == expected
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_a_write_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save(checkpoint(3), path)

    def interrupted(_: Any, file: Any) -> None:
        file.write(b"half a check")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(checkpoint(4), path)
    assert load(path).step == 3


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, part: float) -> None:
    path = tmp_path / "last.pt"
    save(checkpoint(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(DataError, match=r"no .*checkpoint"):
        load(path)


class _Code:
    """What a malicious checkpoint would do when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save(dict(vars(checkpoint())) | {"recipe": _Code(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"no .*checkpoint"):
        load(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{"step": 3}, [1, 2], {"nonsense": 1}, torch.ones(3)])
def test_other_contents_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"no .*checkpoint"):
        load(tmp_path / "a.pt")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a checkpoint")
    for name in ("absent.pt", "text.pt"):
        with pytest.raises(DataError, match=name):
            load(tmp_path / name)
