"""Do other runtimes give the masks that ONNX Runtime gives? Seen on CTs, not assumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter
from imaging.read import read_volume
from imaging.threads import usable_cores
from imaging.volume import Volume
from models.labels import BY_NAME
from models.manifest import Manifest
from models.onnxfile import embed, parse, read_manifest
from models.predict import Scorer, predict
from serving.engines import openvino
from serving.engines.onnx_runtime import OnnxRuntime
from serving.engines.openvino import OpenVino


def compare(path: Path, cts: Sequence[Path]) -> dict[str, float]:
    """The least Dice of any structure, between each runtime's masks and ONNX Runtime's.

    Voxels of all CTs are counted together: a lesion of few voxels in one of them is no structure.

    Args:
        path: a file that describes itself.
        cts: what ``imaging.read.read_volume`` takes.

    Returns:
        By the runtimes' names, those that this machine has.

    Raises:
        BadParameter: no CT, none in which ONNX Runtime finds anything, or no other runtime here.
        BadManifest, CorruptModel, InputError: of the file and the CTs.
    """
    names = openvino.usable()
    if not cts or not names:
        raise BadParameter(
            "Comparing runtimes takes at least one CT, and a further runtime: "
            "pip install -c constraints.txt '.[serving,openvino]'."
        )
    manifest, data, threads = read_manifest(path), path.read_bytes(), usable_cores()
    plain = OnnxRuntime(data, path.name, "cpu", threads)
    others = {name: OpenVino(data, path.name, threads, name) for name in names}
    sums = {name: np.zeros((3, len(manifest.outputs)), np.int64) for name in names}
    for volume in map(read_volume, cts):
        expected = _labels(volume, manifest, plain)
        for name, other in others.items():
            sums[name] += _overlaps(expected, _labels(volume, manifest, other), manifest)
    if not any(one.any() for _, one, _ in sums.values()):
        raise BadParameter(
            f"{path.name} finds nothing in these CTs, so nothing can be compared; name others."
        )
    return {name: _least_dice(found) for name, found in sums.items()}


def record(path: Path, fidelity: dict[str, float]) -> Manifest:
    """Write a comparison into an ONNX file's manifest; the graph stays as it is.

    Raises:
        BadManifest, CorruptModel: the file is none that describes itself.
    """
    manifest = dataclasses.replace(read_manifest(path), fidelity=fidelity)
    return embed(parse(path)[0], manifest, path)


def _labels(volume: Volume, manifest: Manifest, scorer: Scorer) -> NDArray[np.uint8]:
    return predict(volume, manifest, scorer, keep_doubtful=True).labels.array


def _overlaps(a: NDArray[np.uint8], b: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.int64]:
    """Voxels in both, in the one and in the other (3, structures)."""
    table = np.zeros(256, np.int64)
    for place, name in enumerate(manifest.outputs):
        table[BY_NAME[name].value] = place + 1
    count = len(manifest.outputs) + 1
    both = np.bincount(table[a[a == b]], minlength=count)
    ones = (np.bincount(table[labels.ravel()], minlength=count) for labels in (a, b))
    return np.stack([both, *ones])[:, 1:]


def _least_dice(sums: NDArray[np.int64]) -> float:
    both, one, other = sums
    there = (one + other) > 0
    return float(np.min(2 * both[there] / (one + other)[there]))
