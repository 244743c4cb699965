"""Two real processes train one recipe together, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import write_decathlon
from training import checkpoint

pytestmark = pytest.mark.e2e


def train(out: Path, data: Path, processes: int) -> list[dict[str, Any]]:
    """The history of a training by so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = ["-m", "islet", "train", "starter-finder", "--scale", "tiny", "--data", str(data)]
    command += ["--steps", "3", "--batch", "2", "--phantoms", "0", "--out", str(out)]
    command += ["--device", "cpu", "--precision", "fp32"]
    subprocess.run(
        [sys.executable, *launcher, *command],
        check=True,
        capture_output=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def test_two_processes_share_a_batch_and_learn_what_one_learns(tmp_path: Path) -> None:
    data = write_decathlon(tmp_path / "data")
    together = train(tmp_path / "two", data, 2)
    alone = train(tmp_path / "one", data, 1)
    assert [e["step"] for e in together] == [3]
    # A Dice a sample: the mean over processes is the batch's, up to the order of sums.
    assert together[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-4)
    states = [checkpoint.load(tmp_path / name / "last.pt").network for name in ("one", "two")]
    assert states[0].keys() == states[1].keys()
    # Adam divides by the gradient's size: where that is but rounding, so is the step's sign.
    apart = torch.cat([(states[0][k] - states[1][k]).abs().flatten() for k in states[0]])
    assert (apart < 1e-4).float().mean() > 0.995
    assert apart.max() < 3 * 2 * 3e-3, "three steps of at most the learning rate"
    assert (tmp_path / "two" / "model.onnx").is_file()
