"""The first run of a model from elsewhere, in a process of its own.

A graph can ask for all memory there is, run for ever, or bring ONNX Runtime down. It does so here,
beside the process that asks: ``python -m models.trial FILE MEGABYTES`` prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import IsletError, ModelRefused
from imaging.limits import MIB
from models.manifest import Manifest
from models.scorer import Scorer

# One patch of the largest models of this field takes a few GB and, on one core, a minute or two.
MEMORY_MB = 8192
SECONDS = 300.0

_ROOT = Path(__file__).parents[1]


def smallest_input(manifest: Manifest) -> tuple[int, int, int]:
    """The smallest network input (Z, Y, X) that is tried, and what a model is warmed with.

    Its coarsest level has two voxels a side where the patch has: instance norm takes no single
    one. A 2D model has Z = 1.
    """
    z, y, x = (
        min(p, max(2 * d, -(-16 // d) * d))
        for p, d in zip(manifest.patch, manifest.divisor, strict=True)
    )
    return z, y, x


def attempt(path: Path, seconds: float = SECONDS, memory_mb: int = MEMORY_MB) -> None:
    """Run a self-describing file on its smallest input and on a whole patch, in a process.

    Args:
        path: a file that ``models.onnxfile.read_manifest`` takes.
        seconds: it may take so long.
        memory_mb: and so much memory.

    Raises:
        ModelRefused: it does not run, or its scores are not what its manifest promises.
    """
    command = [sys.executable, "-m", "models.trial", str(path.resolve()), str(memory_mb)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            cwd=_ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in _paths() if p)},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelRefused(
            f"One patch takes longer than {seconds:.0f} s on this machine; make the patch smaller.",
            seconds=seconds,
        ) from error
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or not lines:
        raise ModelRefused(
            f"ONNX Runtime ended with {done.returncode} over the first patch, at most {memory_mb} "
            "MB were allowed; make the patch smaller or export the model again.",
            exit_code=done.returncode,
        )
    found = json.loads(lines[-1])["problem"]
    if found is not None:
        raise ModelRefused(found)


def _paths() -> tuple[str, str]:
    return str(_ROOT), os.environ.get("PYTHONPATH", "")


def main(path: Path, memory_mb: int) -> int:
    """What the process does; the problem, or none, goes to standard output."""
    limit = memory_mb * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print(json.dumps({"problem": problem(path, memory_mb)}), flush=True)
    return 0


def problem(path: Path, memory_mb: int = MEMORY_MB) -> str | None:
    """What is wrong with the scores of a file, run in this process; ``None`` when nothing is."""
    # Loaded in the process alone: what else needs this file asks for sizes and starts processes.
    from models.onnxfile import read_manifest

    manifest = read_manifest(path)
    try:
        lowest = _lowest_score(path, manifest)
    except IsletError as error:
        return error.message
    except MemoryError:
        return _too_much(manifest, memory_mb)
    except Exception as error:  # noqa: BLE001 - the edge of the process; ONNX Runtime's have no base
        if "bad_alloc" in str(error) or "bad allocation" in str(error):
            return _too_much(manifest, memory_mb)
        return (
            f"ONNX Runtime does not run the model on its own patch {manifest.patch} "
            f"({type(error).__name__}: {str(error)[:300]}); compare the manifest with the graph."
        )
    if manifest.activation == "sigmoid" and lowest >= 0:
        return (
            "No score on noise is below 0, so every voxel would be in every structure: sigmoid "
            "models give logits; export it without its last activation."
        )
    return None


def _lowest_score(path: Path, manifest: Manifest) -> float:
    """Of all that the network gives for noise; its organs' part and finder run too, if there."""
    from models.finder import finder_scores
    from models.onnxfile import of_organs, read_finder
    from models.predict import label_grid

    lowest: list[float] = []
    network = _network(str(path))

    def scorer(patches: NDArray[np.float32]) -> NDArray[Any]:
        scores = network(patches)
        lowest.append(float(scores.min()))
        return scores

    images = _images(manifest)
    for image in images:
        label_grid(image, manifest, scorer, _untold)
    if manifest.organs:
        organs = _network(of_organs(path.read_bytes(), manifest.name))
        label_grid(images[0], manifest.of_organs(), organs, _untold)
    if manifest.finder is not None:
        finder = _network(read_finder(path.read_bytes(), manifest.finder))
        finder_scores(images[0], manifest.finder, finder)
    return min(lowest)


def _network(file: str | bytes) -> Scorer:
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda patches: session.run(None, {name: patches})[0]


def _untold(_step: str, _part: float) -> None:
    """Nobody waits for the progress."""


def _too_much(manifest: Manifest, memory_mb: int) -> str:
    return (
        f"One patch {manifest.patch} takes more than {memory_mb} MB of memory; make the patch "
        "smaller."
    )


def _images(manifest: Manifest) -> list[NDArray[np.float32]]:
    """Noise (Z, Y, X) in the range of the model's input: its smallest size, and a whole patch.

    A 2D model sees two slices at once in the smaller one, so that a batch frozen into the graph
    is found.
    """
    rng = np.random.default_rng(0)
    small = smallest_input(manifest)
    if manifest.dims == 2:
        small = (2, *small[1:])
    low = -1.0 if manifest.intensity.scale == "signed" else 0.0
    return [
        rng.uniform(low, 1.0, size).astype(np.float32)
        for size in dict.fromkeys((small, manifest.patch))
    ]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
