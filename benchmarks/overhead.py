"""What segmenting costs besides the network, against merely reading the CT and writing a label map.

    python -m benchmarks.overhead [CT] [--model NAME] [--repeats N] [--json FILE]

Both sides run interleaved in one process; the ratio is of their medians. Peak memory is that of
one whole ``islet segment`` process. Without a CT a 512x512x119 phantom is made.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.read import read_volume
from imaging.threads import usable_cores
from imaging.writers.nifti import encode_nifti, write_nifti
from models.store import default_store
from serving.engines import Engine, Engines
from serving.options import Options
from serving.segment import files, segment

# What the pipeline may cost around the network, and what its process may take.
RATIO_BAR = 1.5
MEMORY_BAR_MB = 1500


def main() -> int:
    """Measure, print, write; exit code 1 when a bar is missed."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        ct = args.ct or _phantom(Path(folder))
        result = measure(ct, args.model, args.repeats)
        result["peak_mb"] = peak_memory_mb(ct, args.model, Path(folder))
    ratio = result["ratios"]["around_network_to_floor"]
    print(f"reading and writing alone  {result['floor_s']['median']:.3f} s (median)")
    print(f"everything but the network {result['around_s']['median']:.3f} s")
    print(f"the network                {result['network_s']['median']:.3f} s")
    print(f"ratio {ratio:.2f} (bar {RATIO_BAR})")
    print(f"peak of the process {result['peak_mb']:.0f} MB (bar {MEMORY_BAR_MB})")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return int(ratio > RATIO_BAR or result["peak_mb"] > MEMORY_BAR_MB)


def measure(ct: Path, model: str, repeats: int) -> dict[str, Any]:
    """Interleaved runs of both sides after one warm-up; seconds."""
    engines = Engines(default_store(), kind=_Timed)
    options = Options(model=model)
    floor, around, network = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            low = read_and_write(ct, Path(folder))
            whole, inside = _pipeline(ct, options, engines, Path(folder))
            if turn:
                floor.append(low)
                network.append(inside)
                around.append(whole - inside)
    spreads = {"floor_s": floor, "around_s": around, "network_s": network}
    return {
        "ct": ct.name,
        "model": model,
        "machine": {"cores": usable_cores(), "processor": platform.machine()},
        "repeats": repeats,
        **{name: spread(values) for name, values in spreads.items()},
        "ratios": {"around_network_to_floor": statistics.median(around) / statistics.median(floor)},
    }


def peak_memory_mb(ct: Path, model: str, folder: Path) -> float:
    """Peak resident memory of one ``islet segment`` process."""
    command = [sys.executable, "-m", "islet", "segment", str(ct), "--model", model]
    subprocess.run([*command, "--out", str(folder / "masks")], check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def read_and_write(ct: Path, folder: Path) -> float:
    """Read the CT and write an empty-but-for-a-box label map on its grid."""
    start = time.perf_counter()
    volume = read_volume(ct)
    labels = np.zeros(volume.array.shape, np.uint8)
    z, y, x = volume.geometry.shape
    labels[z // 3 : 2 * z // 3, y // 3 : 2 * y // 3, x // 3 : 2 * x // 3] = 1
    (folder / "floor.nii.gz").write_bytes(encode_nifti(volume.with_array(labels)))
    return time.perf_counter() - start


class _Timed(Engine):
    """An engine that adds up the seconds inside the network itself."""

    seconds = 0.0

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        start = time.perf_counter()
        scores = super().__call__(patches)
        self.seconds += time.perf_counter() - start
        return scores


def _pipeline(ct: Path, options: Options, engines: Engines, folder: Path) -> tuple[float, float]:
    """Seconds of the whole way, files written, and of the network in it."""
    engine = engines.get(engines.store.resolve(options.model), options.device)
    assert isinstance(engine, _Timed)
    engine.seconds = 0.0
    start = time.perf_counter()
    result = segment(ct, options, engines)
    for name, data in files(result):
        (folder / name).write_bytes(data)
    return time.perf_counter() - start, engine.seconds


def _phantom(folder: Path) -> Path:
    from training.phantoms import make_phantom

    path = folder / "phantom.nii.gz"
    phantom = make_phantom(7, "a-thin-portal", shape=(119, 512, 512), spacing_mm=(1.6, 0.74, 0.74))
    write_nifti(phantom.volume, path)
    return path


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("ct", type=Path, nargs="?")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
