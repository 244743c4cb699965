"""Files that are damaged on their disk: a model, a checkpoint, the jobs' records."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.trials.row import Row
from imaging.errors import IsletError
from models.predict import predict
from models.store import Store
from serving.engines import Engines
from serving.jobs.jobs import Jobs
from serving.settings import Settings
from tests.serving.tiny_model import boxes_ct, publish
from training.checkpoint import Checkpoint, load, save

# Done to bytes, in place.
Damage = Callable[[bytearray, random.Random], None]

_PAGE = 4096
_JOBS = 30


def trial(times: int = 100, seed: int = 8) -> Sequence[Row]:
    """So many damages to each kind of file.

    Args:
        times: to a model and a checkpoint; to the records a quarter of it.
        seed: of what is damaged and where.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            model(folder / "model", times, random.Random(f"{seed}-model")),
            checkpoint(folder / "checkpoint", times, random.Random(f"{seed}-checkpoint")),
            records(folder / "records", max(4, times // 4), random.Random(f"{seed}-records")),
        ]


def model(folder: Path, times: int, chance: random.Random) -> Row:
    """A published model that is refused with a code, or gives the masks that it gave."""
    folder.mkdir(parents=True)
    store = Store(folder / "store", behind=())
    path = publish(store, folder).path
    ct, expected = boxes_ct()

    def use() -> bool:
        # A store of its own: nothing is remembered from before the damage.
        found = Store(store.root, behind=()).resolve("starter")
        engine = Engines(store, 1, runtime="onnxruntime").get(found, "cpu")
        made = predict(ct, found.manifest, engine)
        return np.array_equal(made.labels.array, expected)

    return _damaged("corrupted model", path, times, chance, use, (_bits, _cut, _page))


def checkpoint(folder: Path, times: int, chance: random.Random) -> Row:
    """A training's state that is refused with a code, or is what was saved."""
    folder.mkdir(parents=True)
    path = folder / "last.pt"
    network = {"weight": torch.arange(20000.0), "bias": torch.ones(7)}
    made = Checkpoint('{"name": "tiny"}', 3, network, {"state": {}}, {"last": 3}, (0.5, 2))
    save(made, path)

    def use() -> bool:
        found = vars(load(path))
        tensors: dict[str, torch.Tensor] = found.pop("network")
        plain = {k: v for k, v in vars(made).items() if k != "network"}
        same = tensors.keys() == network.keys() and found == plain
        return same and all(torch.equal(tensors[k], network[k]) for k in network)

    return _damaged("corrupted checkpoint", path, times, chance, use, (_bits, _cut, _page))


def records(folder: Path, times: int, chance: random.Random) -> Row:
    """Records of jobs that are named as damaged, or as they were."""
    settings = Settings(spool=folder / "spool", queue=_JOBS)
    jobs = Jobs(settings)
    for number in range(_JOBS):
        jobs.submit("segment", {"number": number, "words": "x" * 400}, "anna", None)
    expected = jobs.list()
    jobs.close()
    path = settings.spool / "records" / "jobs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()

    def use() -> bool:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        opened = Jobs(settings)
        try:
            return opened.list() == expected
        finally:
            opened.close()

    return _damaged("corrupted job records", path, times, chance, use, (_cut, _page, _head))


def _damaged(
    family: str,
    path: Path,
    times: int,
    chance: random.Random,
    use: Callable[[], bool],
    kinds: Sequence[Damage],
) -> Row:
    """Damage a file again and again; it must be refused by name or do no harm."""
    whole = path.read_bytes()
    found: Counter[str] = Counter()
    for number in range(times):
        data = bytearray(whole)
        kinds[number % len(kinds)](data, chance)
        path.write_bytes(data)
        found[_ends(use)] += 1
    path.write_bytes(whole)
    if not use():
        raise AssertionError(f"{family}: the whole file is not used as it was")
    shutil.rmtree(path.parent, ignore_errors=True)
    wrong = {what: n for what, n in found.items() if what.startswith("!")}
    lost = sum(wrong.values())
    harmless = found.pop("as it was", 0)
    codes = ", ".join(f"{n} {code}" for code, n in sorted(found.items()))
    return Row(family, times, times - lost, lost, f"{codes}, {harmless} without effect")


def _ends(use: Callable[[], bool]) -> str:
    try:
        return "as it was" if use() else "! unnoticed"
    except IsletError as error:
        return error.code
    except Exception as error:  # noqa: BLE001 - what has no code is what is looked for
        return f"! {type(error).__name__}"


def _bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def _page(data: bytearray, chance: random.Random) -> None:
    """A piece of the disk that reads as zeros, or as something else's."""
    size = min(_PAGE, len(data) // 4)
    start = chance.randrange(0, len(data) - size + 1, min(size, _PAGE))
    data[start : start + size] = chance.choice((bytes(size), chance.randbytes(size)))


def _head(data: bytearray, chance: random.Random) -> None:
    data[:100] = chance.randbytes(100)
