"""A finder for a model: put into its file when CTs show that it costs nothing of the masks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter
from imaging.read import read_volume
from imaging.threads import usable_cores
from models.manifest import Finder, Manifest
from models.onnxfile import read_manifest, redescribe
from models.predict import predict
from serving.engines.choice import SAME_DICE
from serving.engines.onnx_runtime import OnnxRuntime
from serving.engines.overlaps import Overlaps
from serving.engines.runtime import Runtime


@dataclass(frozen=True)
class Spared:
    """What a finder does for a model.

    Attributes:
        dice: the least of any structure, between the masks with and without it.
        visited: part of the network's voxels that is still visited, the mean of all CTs.
        everywhere: in how many of them everything is, since the finder was not sure.
        cts: how many there were.
    """

    dice: float
    visited: float
    everywhere: int
    cts: int


def attach(path: Path, finder: Path, cts: Sequence[Path], margin_mm: float) -> Spared:
    """Put a finder into a model's file, and into its manifest what it spares.

    Args:
        path: a file that describes itself.
        finder: another one, 3D with a softmax, which sees a coarser grid with the same intensities.
        cts: to see on that the masks stay the same.
        margin_mm: around what the finder finds.

    Raises:
        BadParameter: no CT, one network that cannot be the other's finder, no mask in any CT, or
            masks that do not stay the same; the file is as it was.
        BadManifest, CorruptModel, InputError: of the files and the CTs.
    """
    manifest, data = read_manifest(path), finder.read_bytes()
    described = _described(manifest, read_manifest(finder), data)
    described = dataclasses.replace(described, margin_mm=margin_mm)
    threads = usable_cores()
    model = OnnxRuntime(path.read_bytes(), path.name, "cpu", threads)
    glance = OnnxRuntime(data, finder.name, "cpu", threads)
    spared = _spared(dataclasses.replace(manifest, finder=described), model, glance, cts)
    if spared.dice < SAME_DICE:
        raise BadParameter(
            f"With this finder and {margin_mm:g} mm around, a mask's Dice with that of the whole "
            f"CT is {spared.dice:.4f}, at least {SAME_DICE} is asked; raise --margin. A network "
            "that normalises each patch by what it shows (instance norm) may take none.",
            dice=spared.dice,
        )
    described = dataclasses.replace(described, fitted=dataclasses.asdict(spared))
    redescribe(path, data, finder=described)
    return spared


def _described(model: Manifest, finder: Manifest, data: bytes) -> Finder:
    """What the model's manifest says of a finder that fits it.

    Raises:
        BadParameter: it does not.
    """
    spacing = finder.sampling.spacing_mm
    coarse = all(mm is not None and mm == spacing[0] for mm in spacing)
    if finder.dims != 3 or finder.activation != "softmax" or not coarse:
        raise BadParameter(
            f"{finder.name} is no finder: it must be 3D with a softmax and see one spacing."
        )
    if finder.intensity != model.intensity:
        raise BadParameter(
            f"{finder.name} sees {finder.intensity}, {model.name} {model.intensity}; a finder sees "
            "what the model sees, only coarser."
        )
    missing = set(model.outputs) - set(finder.outputs)
    if missing:
        raise BadParameter(f"{finder.name} does not look for {', '.join(sorted(missing))}.")
    return Finder(float(spacing[0] or 0), finder.divisor, hashlib.sha256(data).hexdigest())


def _spared(manifest: Manifest, model: Runtime, glance: Runtime, cts: Sequence[Path]) -> Spared:
    """What the finder does on CTs."""
    if not cts:
        raise BadParameter("What a finder costs is seen on CTs; name at least one.")
    counting = _Counting(model)
    overlaps, visited = Overlaps(manifest.outputs), []
    for volume in map(read_volume, cts):
        whole = predict(volume, manifest, counting, keep_doubtful=True)
        voxels = counting.counted()
        part = predict(volume, manifest, counting, keep_doubtful=True, finder=glance)
        visited.append(counting.counted() / voxels)
        overlaps.add(whole.labels.array, part.labels.array)
    if not overlaps.any():
        raise BadParameter(f"{manifest.name} finds nothing in these CTs; name others.")
    everywhere = sum(part >= 1 for part in visited)
    return Spared(overlaps.least_dice(), float(np.mean(visited)), everywhere, len(cts))


class _Counting:
    """A network that counts the voxels that it visits."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._voxels = runtime, 0

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        self._voxels += patches.size
        return self._runtime(patches)

    def counted(self) -> int:
        """The voxels since the last time that somebody asked."""
        voxels, self._voxels = self._voxels, 0
        return voxels
