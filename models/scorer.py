"""What runs a network, to those who need not know how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import CorruptModel
from models.manifest import Manifest

# Network inputs in, scores (logits or probabilities) out, both float32:
# (N, 1, Y, X) -> (N, C, Y, X) for 2D models, (N, 1, Z, Y, X) -> (N, C, Z, Y, X) for 3D ones.
Scorer = Callable[[NDArray[np.float32]], NDArray[Any]]


def checked(scores: NDArray[Any], patches: NDArray[np.float32], manifest: Manifest) -> NDArray[Any]:
    """The scores, when they are what the manifest promises for such patches.

    Raises:
        CorruptModel: another shape, or values that are not finite.
    """
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
