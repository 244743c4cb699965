"""What a site keeps of a job between rounds, whole on disk or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from federation.parts import Weights
from imaging.errors import DataError
from imaging.files import sweep, whole_file
from training import checkpoint
from training.checkpoint import Checkpoint

_BEST = "best.pt"


@dataclass(frozen=True, eq=False)
class Kept:
    """A site after a round.

    Attributes:
        round: the one that is done, from 0.
        checkpoint: of the site's training.
        reference: the shared weights that the round began with, which differences refer to.
        residual: what rounding left of the updates so far.
        reply: what left the site, should the server ask for it again.
    """

    round: int
    checkpoint: Checkpoint
    reference: Weights
    residual: Weights
    reply: bytes


@dataclass(frozen=True, eq=False)
class Own:
    """A site's best model so far.

    Attributes:
        round: after which it was found, from 0.
        score: mean Dice over structures on the site's validation cases; the round's number where
            there are none, so that the last is the best.
        network: state.
    """

    round: int
    score: float
    network: Mapping[str, torch.Tensor]


class Holding:
    """A folder with the last two rounds of the site and its best model.

    Two, because a server that was killed may ask for the last round again, and then the one before
    it, which is an older one where the site missed some, is where that begins.

    Args:
        folder: of this job and no other.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)

    def before(self, number: int) -> Kept | None:
        """The state after the last round before this one."""
        found = [n for n in self._rounds() if n < number]
        return self._read(found[-1]) if found else None

    def last(self) -> Kept | None:
        """The state after the last round."""
        found = self._rounds()
        return self._read(found[-1]) if found else None

    def keep(self, kept: Kept, own: Own | None) -> None:
        """Write a round's end; later ones, of an attempt that was given up, go."""
        if own is not None:
            _save({**vars(own), "network": dict(own.network)}, self._folder / _BEST)
        raw = {
            "round": kept.round,
            "checkpoint": dict(vars(kept.checkpoint)),
            "reference": _tensors(kept.reference),
            "residual": _tensors(kept.residual),
            "reply": torch.frombuffer(bytearray(kept.reply), dtype=torch.uint8),
        }
        _save(raw, self._path(kept.round))
        older = [n for n in self._rounds() if n < kept.round]
        for number in self._rounds():
            if number not in (kept.round, *older[-1:]):
                self._path(number).unlink()

    def best(self) -> Own | None:
        """The best model so far."""
        path = self._folder / _BEST
        return Own(**_load(path)) if path.exists() else None

    def best_score(self) -> float:
        """Its score; minus infinity where there is none."""
        best = self.best()
        return best.score if best else float("-inf")

    def _rounds(self) -> list[int]:
        return sorted(int(p.stem.partition("-")[2]) for p in self._folder.glob("round-*.pt"))

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number:06d}.pt"

    def _read(self, number: int) -> Kept:
        path = self._path(number)
        raw = _load(path)
        if {"round", "checkpoint", "reference", "residual", "reply"} != raw.keys():
            raise DataError(f"{path} is no state of a job of this version; delete its folder.")
        return Kept(
            raw["round"],
            Checkpoint(**raw["checkpoint"]),
            {name: value.numpy() for name, value in raw["reference"].items()},
            {name: value.numpy() for name, value in raw["residual"].items()},
            raw["reply"].numpy().tobytes(),
        )


def _tensors(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value.copy()) for name, value in weights.items()}


def _save(raw: dict[str, Any], path: Path) -> None:
    with whole_file(path, durable=True) as file:
        torch.save(raw, file)


def _load(path: Path) -> dict[str, Any]:
    try:
        return checkpoint.read(path)
    except DataError as error:
        raise DataError(
            f"{path} is no readable state of a job ({error}); delete the job's folder, the site "
            "then joins anew."
        ) from error
