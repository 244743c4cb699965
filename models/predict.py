"""The one way from a CT to a label map; serving and training both go through it."""

from __future__ import annotations

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
    walk = _walk_2d if manifest.dims == 2 else _walk_3d
    labels = np.empty(tiling.padded, np.uint8)
    for where, scores in walk(image, tiling, manifest, scorer, tell):
        labels[where] = decide(scores, manifest)
    return labels[z, y, x]


Slab = Iterator[tuple[slice, NDArray[np.float32]]]


def _walk_2d(
    image: NDArray[np.float32], tiling: Tiling, manifest: Manifest, scorer: Scorer, tell: Progress
) -> Slab:
    """Finished scores (C, n, Y, X) of the next n slices, several slices at a time."""
    depth = image.shape[0]
    window = weights(tiling.patch)[0]
    for first in range(0, depth, _SLICES):
        where = slice(first, min(first + _SLICES, depth))
        total = np.zeros((manifest.channels, where.stop - first, *image.shape[1:]), np.float32)
        for y, x in product(*tiling.starts[1:]):
            box = (slice(y, y + tiling.patch[1]), slice(x, x + tiling.patch[2]))
            scores = _scores(image[where][:, *box][:, None], manifest, scorer)
            total[:, :, *box] += scores.swapaxes(0, 1) * window
        yield where, total
        tell("network", where.stop / depth)


def _walk_3d(
    image: NDArray[np.float32], tiling: Tiling, manifest: Manifest, scorer: Scorer, tell: Progress
) -> Slab:
    """Finished scores (C, n, Y, X) of the next n slices, one row of patches at a time."""
    depth, window = tiling.patch[0], weights(tiling.patch)
    total = np.zeros((manifest.channels, depth, *image.shape[1:]), np.float32)
    done = 0
    ends = (*tiling.starts[0][1:], image.shape[0])
    for z, end in zip(tiling.starts[0], ends, strict=True):
        for y, x in product(*tiling.starts[1:]):
            box = (slice(y, y + tiling.patch[1]), slice(x, x + tiling.patch[2]))
            patch = image[z : z + depth, *box]
            total[:, :, *box] += _scores(patch[None, None], manifest, scorer)[0] * window
            done += 1
            tell("network", done / tiling.count)
        count = end - z
        yield slice(z, end), total[:, :count]
        # The slices that the next row of patches reaches too move to the front.
        total[:, : depth - count] = total[:, count:].copy()
        total[:, depth - count :] = 0


def _scores(patches: NDArray[np.float32], manifest: Manifest, scorer: Scorer) -> NDArray[Any]:
    scores = np.asarray(scorer(np.ascontiguousarray(patches)))
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
