"""Fuzzing processes started, limited, started again where they died, and counted."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.trials.row import Row

TARGETS = ("nifti", "dicom", "archive", "manifest", "model")
EXECUTIONS = 20_000
# Of one execution, and of the process that makes them.
SECONDS, MEMORY_MB = 10, 2048
# Bytes that are made up at most.
LENGTH = 8192

_ROOT = Path(__file__).resolve().parents[3]
_UNITS = re.compile(rb"stat::number_of_executed_units:\s*(\d+)")
_COVERED = re.compile(rb"cov: (\d+)")
# A process that dies so often will do so again.
_DEATHS = 10


@dataclass
class Campaign:
    """What became of one target's executions.

    Attributes:
        executions: that were made.
        crashes: how often each kind of crash was seen, hangs and too much memory among them.
        branches: that were reached.
        seconds: it took.
        files: the smallest bytes of each crash.
    """

    executions: int = 0
    crashes: dict[str, int] = field(default_factory=dict)
    branches: int = 0
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)

    def row(self, target: str) -> Row:
        """The line of the table."""
        lost = min(self.executions, sum(self.crashes.values()))
        figure = f"{self.branches} branches reached, {len(self.crashes)} kinds of crash"
        return Row(f"fuzzed: {target}", self.executions, self.executions - lost, lost, figure)


def trial(
    executions: int = EXECUTIONS,
    targets: Sequence[str] = TARGETS,
    seed: int = 1,
    keep: Path | None = None,
) -> Sequence[Row]:
    """Fuzz the readers.

    Args:
        executions: of each target.
        targets: names of ``targets.TARGETS``.
        seed: of libFuzzer.
        keep: a folder for files that crash, each in one of its target's name; ``None`` keeps none.

    Returns:
        A row a target.

    Raises:
        SystemExit: atheris is not installed; says what to do.
    """
    if importlib.util.find_spec("atheris") is None:
        raise SystemExit(
            "The readers are fuzzed by atheris, which is not installed; pip install atheris "
            "(it has wheels for CPython 3.11 on Linux)."
        )
    rows = []
    for target in targets:
        with tempfile.TemporaryDirectory(prefix="islet-fuzz-") as folder:
            done = fuzz(target, Path(folder), executions, seed)
            for kind, times in done.crashes.items():
                print(f"  {target}: {kind}, {times} times", flush=True)
            if keep is not None and done.files:
                (keep / target).mkdir(parents=True, exist_ok=True)
                for file in done.files:
                    shutil.copy(file, keep / target / file.name)
        rows.append(done.row(target))
    return rows


def fuzz(target: str, folder: Path, executions: int, seed: int) -> Campaign:
    """Fuzz one target, in as many processes as it takes.

    Args:
        target: its name.
        folder: for the corpus and what crashes.
        executions: of all processes together.
        seed: of the first process.
    """
    done = Campaign()
    began = time.monotonic()
    deaths = 0
    while done.executions < executions and deaths < _DEATHS:
        units, branches, died = _process(
            target, folder, executions - done.executions, seed + deaths
        )
        done.executions += units
        done.branches = max(done.branches, branches)
        _gather(folder / "crashes" / "crashes.json", done.crashes)
        if died is not None:
            deaths += 1
            done.crashes[died] = done.crashes.get(died, 0) + 1
    done.seconds = time.monotonic() - began
    # What was only slow was over a second or two, on a busy machine.
    found = sorted((folder / "crashes").iterdir())
    done.files = [p for p in found if p.suffix != ".json" and not p.name.startswith("slow")]
    return done


def _process(target: str, folder: Path, executions: int, seed: int) -> tuple[int, int, str | None]:
    """Executions, branches, and what a process died of."""
    crashes = folder / "crashes"
    crashes.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "benchmarks.trials.fuzzing.child", target, str(folder)),
        *(f"-runs={executions}", f"-seed={seed}", f"-max_len={LENGTH}", "-print_final_stats=1"),
        *(f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={crashes}/"),
    ]
    # One thread each: what is looked for does not lie in numpy's.
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    made = subprocess.run(
        command,
        cwd=_ROOT,
        env=alone | {"TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    units = _UNITS.search(made.stderr)
    if units is None:
        said = made.stderr.decode(errors="replace")[-2000:]
        raise RuntimeError(f"The fuzzer of {target} ended with {made.returncode}:\n{said}")
    branches = max((int(found) for found in _COVERED.findall(made.stderr)), default=0)
    return int(units[1]), branches, _death(made.returncode, made.stderr)


def _death(code: int, said: bytes) -> str | None:
    """What libFuzzer ended a process for."""
    if code == 0:
        return None
    for mark, name in (
        (b"timeout", f"over {SECONDS} s"),
        (b"out-of-memory", f"over {MEMORY_MB} MB"),
    ):
        if b"ERROR: libFuzzer: " + mark in said:
            return name
    return f"ended with {code}"


def _gather(path: Path, crashes: dict[str, int]) -> None:
    """Add what a process saw; the next one starts counting anew."""
    if path.is_file():
        for kind, times in json.loads(path.read_text()).items():
            crashes[kind] = crashes.get(kind, 0) + times
        path.unlink()
