"""What segmenting costs besides the network, against merely reading the CT and writing a label map.

    python -m benchmarks.overhead [CT] [--model NAME] [--repeats N] [--json FILE]

Both sides run interleaved in one process; the ratio is of their medians. Peak memory is that of
one whole ``islet segment`` process. Without a CT a 512x512x119 phantom is made.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cts import phantom
from benchmarks.frame import Bar, Result, arguments, finish, ratio, turns
from imaging.read import read_volume
from imaging.writers.nifti import encode_nifti
from models.store import default_store
from serving.engines import Engine, Engines
from serving.options import Options
from serving.segment import files, segment

# What the pipeline may cost around the network, and what its process may take.
RATIO_BAR = 1.5
MEMORY_BAR_MB = 1500

_FLOOR, _AROUND, _NETWORK = "reading and writing alone", "all but the network", "the network"


def main() -> int:
    """Measure, print, write; exit code 1 when a bar is missed."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = measure(args.ct or phantom(folder), args.model, args.repeats, folder)
    return finish(result, args.json)


def measure(ct: Path, model: str, repeats: int, folder: Path) -> Result:
    """Both sides in turns, then the memory of one whole process.

    Args:
        ct: what ``imaging.read.read_volume`` takes.
        model: reference in the default store.
        repeats: counted turns.
        folder: for what is written.
    """
    engines = Engines(default_store(), kind=Timed)
    inside: list[float] = []

    def around() -> float:
        whole, network = pipeline(ct, Options(model=model), engines, folder)
        inside.append(network)
        return whole - network

    # The network's seconds are of the run just before.
    measured = {
        _FLOOR: lambda: read_and_write(ct, folder),
        _AROUND: around,
        _NETWORK: inside.pop,
    }
    sides = turns(measured, repeats)
    peak_mb = peak_memory_mb(ct, model, folder)
    return Result(
        "What segmenting costs besides the network",
        sides,
        {
            "around_network_to_floor": ratio(sides, _AROUND, _FLOOR),
            "peak_to_bar": peak_mb / MEMORY_BAR_MB,
        },
        {"around_network_to_floor": Bar(most=RATIO_BAR), "peak_to_bar": Bar(most=1.0)},
        facts={
            "ct": ct.name,
            "model": model,
            "repeats": repeats,
            "peak_mb": peak_mb,
            "memory_bar_mb": MEMORY_BAR_MB,
        },
    )


def peak_memory_mb(ct: Path, model: str, folder: Path) -> float:
    """Peak resident memory of one ``islet segment`` process."""
    command = [sys.executable, "-m", "islet", "segment", str(ct), "--model", model]
    subprocess.run([*command, "--out", str(folder / "masks")], check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def read_and_write(ct: Path, folder: Path) -> float:
    """Read the CT and write an empty-but-for-a-box label map on its grid; seconds."""
    start = time.perf_counter()
    volume = read_volume(ct)
    labels = np.zeros(volume.array.shape, np.uint8)
    z, y, x = volume.geometry.shape
    labels[z // 3 : 2 * z // 3, y // 3 : 2 * y // 3, x // 3 : 2 * x // 3] = 1
    (folder / "floor.nii.gz").write_bytes(encode_nifti(volume.with_array(labels)))
    return time.perf_counter() - start


class Timed(Engine):
    """An engine that adds up the seconds inside the network itself.

    Attributes:
        seconds: so far; whoever measures sets it back.
    """

    seconds = 0.0

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        start = time.perf_counter()
        scores = super().__call__(patches)
        self.seconds += time.perf_counter() - start
        return scores


def pipeline(ct: Path, options: Options, engines: Engines, folder: Path) -> tuple[float, float]:
    """Seconds of the whole way, files written, and of the network in it.

    Args:
        ct: what ``imaging.read.read_volume`` takes.
        options: of the segmentation.
        engines: of kind :class:`Timed`.
        folder: where the files go.
    """
    model = engines.store.resolve(options.model)
    engine = engines.get(model, options.device, options.organs_alone(model.manifest))
    assert isinstance(engine, Timed)
    engine.seconds = 0.0
    start = time.perf_counter()
    result = segment(ct, options, engines)
    for name, data in files(result):
        (folder / name).write_bytes(data)
    return time.perf_counter() - start, engine.seconds


def _arguments() -> argparse.Namespace:
    parser = arguments(__doc__, repeats=5)
    parser.add_argument("ct", type=Path, nargs="?")
    parser.add_argument("--model", default="starter")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
