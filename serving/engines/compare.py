"""Do other runtimes give the masks that ONNX Runtime gives? Seen on CTs, not assumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter
from imaging.read import read_volume
from imaging.threads import usable_cores
from imaging.volume import Volume
from models.manifest import Manifest
from models.onnxfile import read_manifest, redescribe
from models.predict import predict
from models.scorer import Scorer
from serving.engines import openvino
from serving.engines.onnx_runtime import OnnxRuntime, open_finder
from serving.engines.openvino import OpenVino
from serving.engines.overlaps import Overlaps


def compare(path: Path, cts: Sequence[Path]) -> dict[str, float]:
    """The least Dice of any structure, between each runtime's masks and ONNX Runtime's.

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
    finder = open_finder(manifest, data, path.name, threads)
    overlaps = {name: Overlaps(manifest.outputs) for name in names}
    for volume in map(read_volume, cts):
        expected = _labels(volume, manifest, plain, finder)
        for name, other in others.items():
            overlaps[name].add(expected, _labels(volume, manifest, other, finder))
    if not any(found.any() for found in overlaps.values()):
        raise BadParameter(
            f"{path.name} finds nothing in these CTs, so nothing can be compared; name others."
        )
    return {name: found.least_dice() for name, found in overlaps.items()}


def record(path: Path, fidelity: dict[str, float]) -> Manifest:
    """Write a comparison into an ONNX file's manifest; the graph stays as it is.

    Raises:
        BadManifest, CorruptModel: the file is none that describes itself.
    """
    return redescribe(path, fidelity=fidelity)


def _labels(
    volume: Volume, manifest: Manifest, scorer: Scorer, finder: Scorer | None
) -> NDArray[np.uint8]:
    return predict(volume, manifest, scorer, keep_doubtful=True, finder=finder).labels.array
