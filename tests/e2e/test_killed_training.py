"""A training that is killed ends, once resumed, as if it had not been; bad data leave no trace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training import checkpoint
from training.datasets.make import make_set
from training.runs import DESCRIPTION, MODEL, PRETRAINING

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# The command line itself; only the patch is smaller than the tiny scale's, and every step ends an
# epoch with its checkpoint.
_STEPS = 20
_SMALLER = """
import sys, islet
from training import runs
from training.recipes import kits21
kits21.TINY.update(patch=(32, 32, 32), steps_per_epoch=1)
"""
# Exporting takes longer than all the rest: only one process does it.
_NO_EXPORT = "runs._export = lambda *given: []\n"
_MAIN = "sys.exit(islet.main(sys.argv[1:]))\n"
_LIMIT_S = 300


def start(data: Path, out: Path, *more: str, export: bool = False) -> subprocess.Popen[str]:
    """A fine-tuning, which trains its pretraining first."""
    code = _SMALLER + ("" if export else _NO_EXPORT) + _MAIN
    command = ["train", "kits21-transfer", "--scale", "tiny", "--data", str(data)]
    command += ["--steps", str(_STEPS), "--out", str(out)]
    command += ["--device", "cpu", "--precision", "fp32"]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", code, *command, *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was printed to stderr."""
    try:
        errors = process.communicate(timeout=_LIMIT_S)[1]
    finally:
        process.kill()
    return process.returncode, errors


def kill_amid(run: Path, process: subprocess.Popen[str], rng: np.random.Generator) -> int:
    """SIGKILL at some moment after one of a run's first checkpoints; the steps then on disk."""
    epochs, delay = int(rng.integers(1, 4)), float(rng.uniform(0, 0.3))
    deadline = time.monotonic() + _LIMIT_S
    while epochs_of(run) < epochs and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    code, errors = finish(process)
    assert code == -signal.SIGKILL, errors
    return checkpoint.load(run / checkpoint.LAST).step


def history_of(run: Path) -> list[dict[str, Any]]:
    history = run / "history.jsonl"
    return [json.loads(line) for line in history.read_text().splitlines()]


def epochs_of(run: Path) -> int:
    return len(history_of(run)) if (run / "history.jsonl").exists() else 0


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what each epoch took, which no two trainings share."""
    return [{name: value for name, value in e.items() if name != "seconds"} for e in history]


def state_of(run: Path) -> dict[str, Any]:
    """All that a run's checkpoint holds, but for the times."""
    saved = vars(checkpoint.load(run / checkpoint.LAST))
    return saved | {"history": timeless(saved["history"])}


def assert_same(a: Any, b: Any, where: str) -> None:
    """Equal to the last bit, all the way down."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "set"
    make_set("kits21", folder, 2, seed=0, shape=(40, 64, 64))
    return folder


@pytest.fixture(scope="module")
def undisturbed(data: Path) -> Path:
    out = data.parent / "undisturbed"
    code, errors = finish(start(data, out))
    assert code == 0, errors
    return out


def test_killed_in_its_pretraining_and_again_after_it_ends_bit_for_bit_the_same(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    rng, out = np.random.default_rng(20), tmp_path / "killed"
    before = kill_amid(out / PRETRAINING, start(data, out), rng)
    assert 0 < before < epochs_of(undisturbed / PRETRAINING)
    assert not (out / checkpoint.LAST).exists()
    then = kill_amid(out, start(data, out, "--resume"), rng)
    assert 0 < then < epochs_of(undisturbed) == _STEPS
    assert not (out / DESCRIPTION).exists()
    code, errors = finish(start(data, out, "--resume", export=True))
    assert code == 0, errors
    assert (out / MODEL).is_file()
    for run, like in ((out / PRETRAINING, undisturbed / PRETRAINING), (out, undisturbed)):
        assert (run / DESCRIPTION).read_bytes() == (like / DESCRIPTION).read_bytes()
        told, expected = (timeless(history_of(r)) for r in (run, like))
        assert told == expected
        assert_same(state_of(run), state_of(like), run.name)


@pytest.mark.parametrize("begun", [False, True])
def test_a_truncated_ct_is_named_and_nothing_half_written_is_left(
    data: Path, undisturbed: Path, tmp_path: Path, begun: bool
) -> None:
    bad, out = tmp_path / "set", tmp_path / "run"
    shutil.copytree(data, bad)
    image = bad / "case_00001" / "imaging.nii.gz"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    if begun:
        out.mkdir()
        for name in (checkpoint.LAST, "history.jsonl"):
            shutil.copy(undisturbed / name, out)
    before = files_of(out)
    code, errors = finish(start(bad, out, *(["--resume"] if begun else [])))
    assert code == 2, errors
    assert "case_00001" in errors
    assert "Traceback" not in errors
    assert files_of(out) == before


def files_of(run: Path) -> dict[str, bytes]:
    """What a run's folder holds but for its cache of the cases that can be read."""
    found = (p for p in run.rglob("*") if p.is_file() and run / "cache" not in p.parents)
    return {str(p.relative_to(run)): p.read_bytes() for p in found}
