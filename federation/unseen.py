"""The normalisation layers of a hospital that did not train, made from those of the sites.

FedBN leaves open what an unseen hospital uses. Here it is the case-weighted mean of the sites'
weights, and their running statistics pooled: the mean and variance of all the sites' activations
taken together, which is not the mean of the variances where the means differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from federation.parts import Weights

_MEAN, _VARIANCE = "running_mean", "running_var"


def pooled(norms: Sequence[Mapping[str, NDArray[np.float32]]], cases: Sequence[int]) -> Weights:
    """One set of normalisation layers from several.

    Args:
        norms: of each site, the same names and shapes.
        cases: of each site, at least one in all.
    """
    share = np.asarray(cases, np.float64) / sum(cases)

    def mean(name: str) -> NDArray[np.float64]:
        return np.tensordot(share, np.stack([site[name] for site in norms]), 1)

    found = {name: mean(name).astype(np.float32) for name in norms[0]}
    for name in [n for n in found if n.endswith(_VARIANCE)]:
        of_mean = name.removesuffix(_VARIANCE) + _MEAN
        apart = np.stack([site[of_mean] - mean(of_mean) for site in norms]) ** 2
        found[name] = (mean(name) + np.tensordot(share, apart, 1)).astype(np.float32)
    return found
