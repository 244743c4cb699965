"""What a site keeps: two rounds, whole or refused, and its best model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from federation.holding import Holding, Kept, Own
from imaging.errors import DataError
from training.checkpoint import Checkpoint

Found = TypeVar("Found", Kept, Own)


def kept(number: int, value: float = 0.0) -> Kept:
    """The state after a round, every tensor of it filled with a value."""
    filled = np.full((2, 3), value, np.float32)
    tensor = torch.full((2, 3), value)
    checkpoint = Checkpoint(
        recipe="{}",
        step=10 * number,
        network={"w": tensor},
        optimizer={"state": {0: {"exp_avg": tensor}}, "param_groups": [{"lr": 0.1}]},
        schedule={"last": number},
        best=(0.5, number),
        history=[{"epoch": number, "loss": 0.5}],
    )
    return Kept(number, checkpoint, {"w": filled}, {"w": -filled}, b"reply %d" % number)


def own(number: int, score: float) -> Own:
    return Own(number, score, {"w": torch.full((3,), float(number))})


def there(found: Found | None) -> Found:
    assert found is not None
    return found


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_everything_comes_back(tmp_path: Path) -> None:
    holding = Holding(tmp_path / "new" / "folder")
    assert holding.last() is None
    assert holding.before(3) is None
    assert holding.best() is None
    assert holding.best_score() == float("-inf")

    holding.keep(kept(2, 1.5), own(2, 0.25))
    read = there(Holding(tmp_path / "new" / "folder").last())
    assert read.round == 2
    assert read.reference["w"].dtype == np.float32
    assert read.reference["w"].tolist() == [[1.5] * 3] * 2
    assert read.residual["w"].tolist() == [[-1.5] * 3] * 2
    assert read.reply == b"reply 2"
    assert (read.checkpoint.step, read.checkpoint.best) == (20, (0.5, 2))
    assert read.checkpoint.history == [{"epoch": 2, "loss": 0.5}]
    assert read.checkpoint.optimizer["state"][0]["exp_avg"].tolist() == [[1.5] * 3] * 2
    best = there(holding.best())
    assert (best.round, best.score, best.network["w"].tolist()) == (2, 0.25, [2.0] * 3)


def rounds(holding: Holding) -> list[int]:
    """All that can be read, the last one first."""
    found, number = [], 10**6
    while (state := holding.before(number)) is not None:
        found.append(state.round)
        number = state.round
    return found


def test_two_rounds_are_kept(tmp_path: Path) -> None:
    holding = Holding(tmp_path)
    seen = []
    for number in range(4):
        holding.keep(kept(number), None)
        seen.append(rounds(holding))
    assert seen == [[0], [1, 0], [2, 1], [3, 2]]
    assert len(files(tmp_path)) == 2


def test_a_round_begins_with_the_last_one_before_it(tmp_path: Path) -> None:
    holding = Holding(tmp_path)
    for number in (0, 5):
        holding.keep(kept(number), None)
    # The site missed rounds 1 to 4. Asked for round 5 again, it begins with round 0 as it did.
    assert holding.before(0) is None
    assert [there(holding.before(n)).round for n in (1, 5, 6)] == [0, 0, 5]
    assert there(holding.last()).round == 5


def test_a_round_made_again_drops_later_ones(tmp_path: Path) -> None:
    holding = Holding(tmp_path)
    for number in (0, 1):
        holding.keep(kept(number, 1.0), None)
    holding.keep(kept(0, 2.0), None)
    assert rounds(holding) == [0]
    assert there(holding.last()).reference["w"][0, 0] == 2
    assert len(files(tmp_path)) == 1


def test_the_best_stays_until_a_better_one(tmp_path: Path) -> None:
    holding = Holding(tmp_path)
    found = []
    for number, better in enumerate((own(0, 0.5), None, own(2, 0.75), None)):
        holding.keep(kept(number), better)
        found.append((there(holding.best()).round, holding.best_score()))
    assert found == [(0, 0.5), (0, 0.5), (2, 0.75), (2, 0.75)]


def test_a_kill_between_the_files_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding = Holding(tmp_path)
    holding.keep(kept(0, 1.0), own(0, 0.5))
    write = torch.save

    def killed(raw: dict[str, Any], file: Any) -> None:
        if "checkpoint" in raw:
            file.write(b"half")
            raise KeyboardInterrupt
        write(raw, file)

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        holding.keep(kept(1, 2.0), own(1, 0.75))
    monkeypatch.undo()
    # The best model is the new one; the round is not done, and is begun from the one before.
    (tmp_path / ".left.part").write_bytes(b"half")
    holding = Holding(tmp_path)
    assert files(tmp_path) == ["best.pt", "round-000000.pt"]
    assert there(holding.last()).round == 0
    assert there(holding.before(1)).reference["w"][0, 0] == 1
    assert holding.best_score() == 0.75


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, part: float) -> None:
    holding = Holding(tmp_path)
    holding.keep(kept(0, 1.0), own(0, 0.5))
    for path in tmp_path.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[: int(part * len(whole))])
    for read in (holding.last, lambda: holding.before(1), holding.best, holding.best_score):
        with pytest.raises(DataError, match="delete the job's folder"):
            read()


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_code_is_unpickled(tmp_path: Path) -> None:
    holding = Holding(tmp_path / "state")
    torch.save({"round": Trap(tmp_path / "trapped")}, tmp_path / "state" / "best.pt")
    with pytest.raises(DataError):
        holding.best()
    assert not (tmp_path / "trapped").exists()
