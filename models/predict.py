"""The one way from a CT to a label map; serving and training both go through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import CorruptModel
from imaging.resample import resample_nearest
from imaging.volume import Volume, from_canonical, to_canonical
from models.manifest import Manifest
from models.postprocess import clean, decide
from models.preprocess import normalise, to_model_grid
from models.tiling import Tiling, tile, weights

# Network inputs in, scores (logits or probabilities) out, both float32:
# (N, 1, Y, X) -> (N, C, Y, X) for 2D models, (N, 1, Z, Y, X) -> (N, C, Z, Y, X) for 3D ones.
Scorer = Callable[[NDArray[np.float32]], NDArray[Any]]
# Called with the step's name ("preprocess", "network", "postprocess") and the part done, 0..1.
Progress = Callable[[str, float], None]

# Slices of a 2D model that go through the network together.
_SLICES = 8


def predict(
    volume: Volume, manifest: Manifest, scorer: Scorer, progress: Progress | None = None
) -> Volume:
    """Segment a CT.

    Args:
        volume: Hounsfield units on any grid.
        manifest: says how the model wants its input and what its channels mean.
        scorer: the network.
        progress: told of every step; raising in it stops the work.

    Returns:
        A uint8 label map (values of ``models.labels``) on the volume's own grid, voxel for voxel.
    """
    tell = progress or _silent
    tell("preprocess", 0.0)
    seen = to_model_grid(volume, manifest.sampling)
    image = normalise(seen.array, manifest.intensity)
    tell("network", 0.0)
    labels = label_grid(image, manifest, scorer, tell)
    tell("postprocess", 0.0)
    labels = clean(labels, manifest.cleanup, seen.geometry.voxel_ml)
    canonical = to_canonical(volume).geometry
    placed = resample_nearest(Volume(labels, seen.geometry), canonical)
    result = from_canonical(placed, volume.geometry)
    tell("postprocess", 1.0)
    return Volume(result.array, volume.geometry, volume.warnings)


def label_grid(
    image: NDArray[np.float32], manifest: Manifest, scorer: Scorer, tell: Progress
) -> NDArray[np.uint8]:
    """Label map (Z, Y, X) of a network input (Z, Y, X) on the model's grid.

    Scores are kept for the slices that patches still reach, and turned into labels as soon as the
    patches have passed: memory does not grow with the length of the scan.
    """
    tiling = tile(image.shape, manifest.patch, manifest.divisor, manifest.overlap)
    pad = [(0, p - n) for p, n in zip(tiling.padded, image.shape, strict=True)]
    image = np.pad(image, pad, constant_values=float(image.min())) if np.any(pad) else image
    z, y, x = (slice(0, n - p[1]) for n, p in zip(image.shape, pad, strict=True))
    network = _Network(manifest, scorer, tiling, tell)
    walk = _walk_2d if manifest.dims == 2 else _walk_3d
    labels = np.empty(tiling.padded, np.uint8)
    for where, scores in walk(image, network):
        labels[where] = decide(scores, manifest)
    return labels[z, y, x]


class _Network:
    """A network over slabs of a grid, with its progress."""

    def __init__(self, manifest: Manifest, scorer: Scorer, tiling: Tiling, tell: Progress) -> None:
        self.tiling = tiling
        self._manifest, self._scorer, self._tell = manifest, scorer, tell
        depth = tiling.padded[0]
        self._count = tiling.count
        if manifest.dims == 2:
            self._count = -(-depth // _SLICES) * math.prod(len(s) for s in tiling.starts[1:])
        self._done = 0

    def __call__(self, slab: NDArray[np.float32]) -> NDArray[Any]:
        """Scores (C, n, Y, X) of n slices (n, Y, X), patches side by side weighed together.

        A single patch keeps its scores as they are: a factor that all channels share changes no
        decision.
        """
        boxes = [
            (slice(y, y + self.tiling.patch[1]), slice(x, x + self.tiling.patch[2]))
            for y, x in product(*self.tiling.starts[1:])
        ]
        if len(boxes) == 1:
            return self._scores(slab)
        window = weights((1, *self.tiling.patch[1:]))
        total = np.zeros((self._manifest.channels, *slab.shape), np.float32)
        for box in boxes:
            total[:, :, *box] += self._scores(slab[:, *box]) * window
        return total

    def _scores(self, slab: NDArray[np.float32]) -> NDArray[Any]:
        flat = self._manifest.dims == 2
        patches = slab[:, None] if flat else slab[None, None]
        scores = _checked(self._scorer(np.ascontiguousarray(patches)), patches, self._manifest)
        self._done += 1
        self._tell("network", self._done / self._count)
        return scores.swapaxes(0, 1) if flat else scores[0]


# Finished scores (C, n, Y, X) of the n slices named; they may lack a positive factor a voxel.
Slab = Iterator[tuple[slice, NDArray[np.float32]]]


def _walk_2d(image: NDArray[np.float32], network: _Network) -> Slab:
    """Several slices at a time."""
    for first in range(0, image.shape[0], _SLICES):
        where = slice(first, min(first + _SLICES, image.shape[0]))
        yield where, network(image[where])


def _walk_3d(image: NDArray[np.float32], network: _Network) -> Slab:
    """One row of patches at a time; only slices that several rows reach are weighed."""
    tiling = network.tiling
    depth, window = tiling.patch[0], weights((tiling.patch[0], 1, 1))
    carried = np.zeros((1, 0, 1, 1), np.float32)
    ends = (*tiling.starts[0][1:], image.shape[0])
    for z, end in zip(tiling.starts[0], ends, strict=True):
        row = network(image[z : z + depth])
        reached, count = carried.shape[1], end - z
        front = row[:, :reached] * window[:reached] + carried
        done = min(reached, count)
        yield slice(z, z + done), front[:, :done]
        yield slice(z + done, end), row[:, done:count]
        # What the next row reaches too: of what was weighed already, and of this row alone.
        fresh = max(reached, count)
        carried = np.concatenate([front[:, done:], row[:, fresh:] * window[fresh:]], axis=1)


def _checked(
    scores: NDArray[Any], patches: NDArray[np.float32], manifest: Manifest
) -> NDArray[Any]:
    """The scores, when they are what the manifest promises for such patches."""
    scores = np.asarray(scores)
    wanted = (patches.shape[0], manifest.channels, *patches.shape[2:])
    if scores.shape != wanted:
        raise CorruptModel(
            f"{manifest.name} gave scores of shape {scores.shape} where its manifest promises "
            f"{wanted}; export it again."
        )
    if not np.isfinite(scores).all():
        raise CorruptModel(
            f"{manifest.name} gave scores that are not finite; use another version of it."
        )
    return scores


def _silent(step: str, done: float) -> None:
    """The progress of those who do not ask."""
