"""A CT of blocks, and networks made of numpy whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from imaging.geometry import Geometry
from imaging.volume import Volume
from models.manifest import Intensity, Manifest, Sampling
from tests.imaging.grids import CANONICAL
from tests.models.manifests import manifest

# The background is as dark as the air around a CT, and every block lies in one of the next darker
# class: what interpolation makes of a face is one of its two sides, not a third class.
WINDOW = (-300.0, 500.0)
HU = {"background": -300, "liver": -50, "pancreas": 200, "kidney": 450}
OUTPUTS = ("pancreas", "liver", "kidney")
# Corners of blocks as parts of the volume, (Z, Y, X): no symmetry maps the scene onto itself.
BLOCKS = (
    ("liver", (0.08, 0.08, 0.06), (0.84, 0.64, 0.72)),
    ("pancreas", (0.20, 0.16, 0.14), (0.76, 0.56, 0.52)),
    ("kidney", (0.30, 0.24, 0.24), (0.64, 0.48, 0.46)),
    ("liver", (0.20, 0.70, 0.30), (0.90, 0.94, 0.90)),
    ("pancreas", (0.44, 0.20, 0.58), (0.74, 0.50, 0.68)),
)
Scorer = Callable[[np.ndarray], np.ndarray]


def scene(
    shape: tuple[int, int, int] = (24, 40, 36),
    spacing: tuple[float, float, float] = (2.5, 1.4, 1.4),
    origin: tuple[float, float, float] = (-60.3, 17.9, 405.0),
) -> Volume:
    """Blocks of tissue in air, int16 HU (Z, Y, X)."""
    hu = np.full(shape, HU["background"], np.int16)
    for name, low, high in BLOCKS:
        start, stop = np.rint(np.multiply(low, shape)), np.rint(np.multiply(high, shape))
        hu[tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))] = HU[name]
    return Volume(hu, Geometry(shape, spacing, origin, CANONICAL))


def flat_manifest(**fields: Any) -> Manifest:
    """A 2D model of the scene."""
    base: dict[str, Any] = {"dims": 2, "patch": (1, 32, 32), "divisor": (1, 4, 4)}
    return deep_manifest(**{**base, **fields})


def deep_manifest(**fields: Any) -> Manifest:
    """A 3D model of the scene."""
    base: dict[str, Any] = {
        "sampling": Sampling((None, 2.0, 2.0)),
        "intensity": Intensity(WINDOW),
        "patch": (16, 24, 24),
        "divisor": (4, 4, 4),
        "outputs": OUTPUTS,
        "overlap": 0.25,
    }
    return manifest(**{**base, **fields})


def by_tissue(made: Manifest) -> Scorer:
    """Scores every voxel by how near its HU are to those of each class (softmax or sigmoid)."""
    names = (("background",) if made.activation == "softmax" else ()) + made.outputs
    low, high = made.intensity.window_hu
    centres = [(HU[name] - low) / (high - low) for name in names]
    half = 0.15  # of the window; classes are twice as far apart and a little more

    def score(patches: np.ndarray) -> np.ndarray:
        away = [np.abs(patches[:, 0] - c) for c in centres]
        return np.stack([half - a for a in away], axis=1).astype(np.float32)

    return score


def by_edge(made: Manifest, reach: int = 1) -> Scorer:
    """A convolution that no flip leaves alone: what is brighter than what lies before it.

    Channel 1 looks back along X, 2 along Y, 3 along Z (X again, further, in 2D): were a patch
    flipped or its axes swapped, other sides of the blocks would be marked. It looks back
    ``reach`` times a few voxels.
    """
    looks = [(-1, 4, 1.0), (-2, 5, 0.8), (-3, 3, 0.6) if made.dims == 3 else (-1, 8, 0.6)]

    def score(patches: np.ndarray) -> np.ndarray:
        image = patches[:, 0]
        channels = [np.full_like(image, 0.08)]
        for axis, steps, weight in looks:
            step = steps * reach
            before = np.zeros_like(image)
            n = image.shape[axis]
            ahead = [slice(None)] * image.ndim
            behind = list(ahead)
            ahead[axis], behind[axis] = slice(min(step, n), None), slice(0, max(n - step, 0))
            before[tuple(ahead)] = image[tuple(behind)]
            channels.append(weight * (image - before))
        return np.stack(channels, axis=1).astype(np.float32)

    return score


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |a and b| / (|a| + |b|) of two masks."""
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())
