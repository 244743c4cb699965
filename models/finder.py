"""Where in a CT a model need look: a small network's glance at the whole of it.

What a model marks lies in a part of most scans, and its network's time goes with the voxels that
it visits. A finder sees means of blocks of the model's own input, some hundredths of it, and what
it marks is cleaned as the model's masks are: a heart that looks like a liver is no second one. It
only proposes: where it is unsure, or what the model then marks goes on beyond the box, everything
is visited.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.blocks import block_means
from imaging.errors import BadParameter, CorruptModel
from imaging.geometry import Geometry
from models.manifest import Calibration, Finder, Manifest
from models.postprocess import bounding_box, clean, decide, seeded_parts
from models.scorer import Scorer

Box = tuple[slice, slice, slice]

_NONE = Calibration()


def region(
    image: NDArray[np.float32], grid: Geometry, manifest: Manifest, scorer: Scorer
) -> Box | None:
    """The part of a network input that may hold the model's structures.

    Args:
        image: what the model sees (Z, Y, X).
        grid: where that lies.
        manifest: of the model; it has a finder.
        scorer: the finder's network.

    Returns:
        A box of voxels; ``None`` where the finder is not sure of any, or all may hold some.

    Raises:
        CorruptModel: the finder's scores are no numbers, or not a grid of its input's size.
    """
    assert manifest.finder is not None
    finder = manifest.finder
    steps = zip(image.shape, grid.spacing, strict=True)
    blocks = [max(1, min(n // 2, round(finder.spacing_mm / mm))) for n, mm in steps]
    means, coarse = block_means(image, grid, (blocks[0], blocks[1], blocks[2]))
    scores = finder_scores(means, finder, scorer)
    # Channels of a softmax, whatever the model's own are.
    read = replace(manifest, outputs=finder.outputs, activation="softmax", calibration=_NONE)
    labels = clean(decide(scores, read), manifest.cleanup, coarse.voxel_ml)
    least = finder.least_ml / coarse.voxel_ml
    found = bounding_box(seeded_parts(labels > 0, _chances(scores) >= finder.sure, least))
    if found is None:
        return None
    ends = zip(found, blocks, image.shape, grid.spacing, strict=True)
    z, y, x = (_grown(side, block, n, finder.margin_mm / mm) for side, block, n, mm in ends)
    whole = tuple(slice(0, n) for n in image.shape)
    return None if (z, y, x) == whole else (z, y, x)


def described(model: Manifest, finder: Manifest, data: bytes) -> Finder:
    """What a model's manifest says of a finder that fits it.

    Args:
        model: of the model.
        finder: of the finder, an ordinary model that sees a coarser grid with the same intensities.
        data: the finder's ONNX file.

    Raises:
        BadParameter: it does not fit.
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
    sha256 = hashlib.sha256(data).hexdigest()
    return Finder(float(spacing[0] or 0), finder.divisor, sha256, finder.outputs)


def finder_scores(means: NDArray[np.float32], finder: Finder, scorer: Scorer) -> NDArray[Any]:
    """A finder's scores (C, Z, Y, X) of its input (Z, Y, X).

    Raises:
        CorruptModel: they are no numbers, or not a grid of its input's size.
    """
    pad = [(0, -n % d) for n, d in zip(means.shape, finder.divisor, strict=True)]
    padded = np.pad(means, pad, constant_values=float(means.min()))[None, None]
    scores = np.asarray(scorer(padded))
    expected = (1, 1 + len(finder.outputs), *padded.shape[2:])
    if scores.shape != expected or not np.isfinite(scores).all():
        raise CorruptModel(
            f"The model's finder gave scores of shape {scores.shape}, not {expected}, or some that "
            "are not finite; attach another one."
        )
    z, y, x = means.shape
    return scores[0, :, :z, :y, :x]


def _chances(scores: NDArray[Any]) -> NDArray[np.float32]:
    """The probability (Z, Y, X) that a voxel holds any structure."""
    weights = np.exp(scores - scores.max(0))
    chance: NDArray[np.float32] = 1 - weights[0] / weights.sum(0)
    return chance


def reaches_beyond(mask: NDArray[np.bool_], box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a mask within a box touches one of its sides that is no side of the whole."""
    for axis, (side, n) in enumerate(zip(box, shape, strict=True)):
        faces = np.moveaxis(mask, axis, 0)
        if (side.start > 0 and faces[0].any()) or (side.stop < n and faces[-1].any()):
            return True
    return False


def _grown(side: slice, block: int, n: int, margin: float) -> slice:
    """A side of a box of blocks as voxels, with a margin of voxels where there are some."""
    more = int(np.ceil(margin))
    return slice(max(0, side.start * block - more), min(n, side.stop * block + more))
