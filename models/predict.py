"""The one way from a CT to a label map and what to think of it; serving and training go it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.geometry import Geometry
from imaging.volume import Volume, from_canonical, to_canonical
from models.confidence import Finding, judge, sureness
from models.edges import place
from models.finder import Box, reaches_beyond, region
from models.manifest import Manifest
from models.postprocess import clean, decide
from models.preprocess import featureless, normalise, to_model_grid
from models.scorer import Scorer, checked
from models.tiling import Tiling, tile, weights

# Called with the step's name ("preprocess", "network", "postprocess") and the part done, 0..1.
Progress = Callable[[str, float], None]

# Slices of a 2D model that go through the network together.
SLICES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model gives for a CT.

    Attributes:
        labels: uint8 label map (values of ``models.labels``) on the CT's own grid, voxel for voxel.
        findings: what the model thinks of each of its structures.
    """

    labels: Volume
    findings: Mapping[str, Finding]


def predict(
    volume: Volume,
    manifest: Manifest,
    scorer: Scorer,
    progress: Progress | None = None,
    keep_doubtful: bool = False,
    finder: Scorer | None = None,
) -> Prediction:
    """Segment a CT.

    Args:
        volume: Hounsfield units on any grid.
        manifest: says how the model wants its input and what its channels mean.
        scorer: the network.
        progress: told of every step; raising in it stops the work.
        keep_doubtful: also what has less confidence than the manifest asks for.
        finder: the network of the manifest's finder; without it all of the CT is visited.
    """
    tell = progress or _silent
    tell("preprocess", 0.0)
    image, grid = network_input(volume, manifest)
    tell("network", 0.0)
    box = region(image, grid, manifest, finder) if finder else None
    labels, sure = _found(image, grid, box, manifest, scorer, tell)
    labels, findings = judge(labels, sure, grid, manifest, keep_doubtful)
    canonical = to_canonical(volume).geometry
    placed = place(Volume(labels, grid), image, manifest.edge_mm, canonical)
    result = from_canonical(placed, volume.geometry)
    tell("postprocess", 1.0)
    return Prediction(Volume(result.array, volume.geometry, volume.warnings), findings)


def network_input(volume: Volume, manifest: Manifest) -> tuple[NDArray[np.float32], Geometry]:
    """A CT as a model's network sees it (Z, Y, X), and where that lies."""
    seen = to_model_grid(volume, manifest.sampling)
    return normalise(seen.array, manifest.intensity), seen.geometry


def _found(
    image: NDArray[np.float32],
    grid: Geometry,
    box: Box | None,
    manifest: Manifest,
    scorer: Scorer,
    tell: Progress,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What :func:`label_grid` gives, cleaned; looked for within a box where one is given.

    A structure that goes on beyond the box shows that it is too small, and all is visited. A speck
    that cleaning drops shows nothing. Where all is one brightness, of air or of metal, or noise,
    there is nothing to look at.
    """
    if featureless(image):
        labels, sure = np.zeros((2, *image.shape), np.uint8)
        return labels, sure
    if box is not None:
        labels, sure = np.zeros((2, *image.shape), np.uint8)
        labels[box], sure[box] = label_grid(image[box], manifest, scorer, tell)
        tell("postprocess", 0.0)
        labels = clean(labels, manifest.cleanup, grid.voxel_ml)
        if not reaches_beyond(labels[box] > 0, box, image.shape):
            return labels, sure
        tell("network", 0.0)
    labels, sure = label_grid(image, manifest, scorer, tell)
    tell("postprocess", 0.0)
    return clean(labels, manifest.cleanup, grid.voxel_ml), sure


def label_grid(
    image: NDArray[np.float32], manifest: Manifest, scorer: Scorer, tell: Progress
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Label map (Z, Y, X) of a network input (Z, Y, X), and how sure the network is of it.

    Scores are kept for the slices that patches still reach, and turned into labels as soon as the
    patches have passed: memory does not grow with the length of the scan but by two bytes a voxel.

    Returns:
        Values of ``models.labels``, and of ``models.confidence.sureness``; both uint8.
    """
    labels, sure = np.zeros((2, *image.shape), np.uint8)
    for where, scores, weight in grid_scores(image, manifest, scorer, tell):
        labels[where] = decide(scores, manifest)
        sure[where] = sureness(scores, weight, labels[where], manifest)
    return labels, sure


def grid_scores(
    image: NDArray[np.float32], manifest: Manifest, scorer: Scorer, tell: Progress
) -> Iterator[tuple[slice, NDArray[Any], NDArray[np.float32]]]:
    """The scores of a network input (Z, Y, X), some slices at a time.

    Yields:
        Which n slices; their scores (C, n, Y, X), which hold a positive weight as a factor; that
        weight, broadcastable to (n, Y, X). Without it they are the network's own, or their mean
        where patches overlap.
    """
    tiling = tile(image.shape, manifest.patch, manifest.divisor, manifest.overlap)
    pad = [(0, p - n) for p, n in zip(tiling.padded, image.shape, strict=True)]
    image = np.pad(image, pad, constant_values=float(image.min())) if np.any(pad) else image
    z, y, x = (slice(0, n - p[1]) for n, p in zip(image.shape, pad, strict=True))
    network = _Network(manifest, scorer, tiling, tell)
    walk = _walk_2d if manifest.dims == 2 else _walk_3d
    deep, wide = _weight(tiling, manifest.dims)
    for where, scores in walk(image, network):
        # Padding is at the ends; a slab of nothing else is no slab.
        if (first := where.start) < (last := min(where.stop, z.stop)):
            weight = deep[first:last] * wide[:, y, x]
            yield slice(first, last), scores[:, : last - first, y, x], weight


def _weight(tiling: Tiling, dims: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The factors that finished scores hold: (Z, 1, 1) along the scan, (1, Y, X) in a slice.

    They are 1 where no patch is weighed, see :class:`_Network` and :func:`_walk_3d`.
    """
    lines, counts = [], []
    for starts, size, length in zip(tiling.starts, tiling.patch, tiling.padded, strict=True):
        line, count = np.zeros(length, np.float32), np.zeros(length, np.uint16)
        for start in starts:
            line[start : start + size] += weights((size, 1, 1)).ravel()
            count[start : start + size] += 1
        lines.append(line)
        counts.append(count)
    deep = np.where((counts[0] > 1) & (dims == 3), lines[0], np.float32(1))
    wide = lines[1][:, None] * lines[2]
    if len(tiling.starts[1]) * len(tiling.starts[2]) == 1:
        wide = np.ones_like(wide)
    return deep[:, None, None], wide[None]


class _Network:
    """A network over slabs of a grid, with its progress."""

    def __init__(self, manifest: Manifest, scorer: Scorer, tiling: Tiling, tell: Progress) -> None:
        self.tiling = tiling
        self._manifest, self._scorer, self._tell = manifest, scorer, tell
        depth = tiling.padded[0]
        self._count = tiling.count
        if manifest.dims == 2:
            self._count = -(-depth // SLICES_AT_ONCE) * math.prod(len(s) for s in tiling.starts[1:])
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
        scores = checked(self._scorer(np.ascontiguousarray(patches)), patches, self._manifest)
        self._done += 1
        self._tell("network", self._done / self._count)
        return scores.swapaxes(0, 1) if flat else scores[0]


# Finished scores (C, n, Y, X) of the n slices named; they may lack a positive factor a voxel.
Slab = Iterator[tuple[slice, NDArray[np.float32]]]


def _walk_2d(image: NDArray[np.float32], network: _Network) -> Slab:
    """Several slices at a time."""
    for first in range(0, image.shape[0], SLICES_AT_ONCE):
        where = slice(first, min(first + SLICES_AT_ONCE, image.shape[0]))
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


def _silent(step: str, done: float) -> None:
    """The progress of those who do not ask."""
