"""RFA: the geometric median of the sites' updates, which a minority of them cannot move far.

Pillutla, Kakade and Harchaoui 2022, "Robust Aggregation for Federated Learning", IEEE Transactions
on Signal Processing 70 (arXiv 1912.13445): smoothed Weiszfeld steps, each a weighted mean. The
paper takes the median of whole updates; it is each tensor's here, since what is changed in one
small layer would be lost in the distances of a whole network, and running statistics are of
another size than weights.

What a site says of itself counts less, too: none weighs more than the median site, however many
cases it claims to have.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from federation.aggregate import Average
from federation.parts import Rows, Weights
from federation.strategies.strategy import Shapes, Strategy

# The least distance that a weight is divided by, as a part of the median site's: of the farthest
# site's it would be that site's to choose.
_SMOOTHING = 1e-6

_Vectors = NDArray[np.float64]


class GeometricMedian:
    """The geometric median of updates, tensor by tensor; holds all of a round's in memory.

    Args:
        shapes, rows: as :class:`federation.aggregate.Average` takes them; each slice of a tensor
            with rows has a median of its own, among the sites that label its channel. Two sites
            have no majority: theirs is the weighted mean.
        options: ``steps`` of Weiszfeld.
    """

    def __init__(
        self, shapes: Shapes, rows: Mapping[str, Rows], options: Mapping[str, float]
    ) -> None:
        self._shapes, self._rows = dict(shapes), dict(rows)
        self._steps = int(options["steps"])
        # Refuses what must not join; its sums are not looked at.
        self._door = Average(shapes, rows)
        self._said: list[tuple[Weights, float, frozenset[int]]] = []

    @property
    def sites(self) -> int:
        """How many updates are in."""
        return len(self._said)

    def add(
        self, update: Mapping[str, NDArray[np.float32]], weight: float, labelled: frozenset[int]
    ) -> None:
        """Add a site's update; see :meth:`federation.aggregate.Average.add`."""
        self._door.add(update, weight, labelled)
        self._said.append((dict(update), weight, labelled))

    def result(self) -> Weights:
        """The median, float32; 0 where no site has a say."""
        most = float(np.median([weight for _, weight, _ in self._said]))
        weights = np.array([min(weight, most) for _, weight, _ in self._said])
        return {name: self._tensor(name, weights) for name in self._shapes}

    def _tensor(self, name: str, weights: _Vectors) -> NDArray[np.float32]:
        if name not in self._rows:
            found = self._among(weights, [update[name] for update, _, _ in self._said])
            return found.reshape(self._shapes[name])
        rows = self._rows[name]
        result = np.zeros(self._shapes[name], np.float32)
        for index, channel in enumerate(rows.channels):
            there = [i for i, (_, _, labelled) in enumerate(self._said) if channel in labelled]
            slices = [np.take(self._said[i][0][name], index, rows.axis) for i in there]
            if there:
                place = (slice(None),) * rows.axis + (index,)
                result[place] = self._among(weights[there], slices).reshape(slices[0].shape)
        return result

    def _among(self, weights: _Vectors, values: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        points = np.stack([value.ravel() for value in values]).astype(np.float64)
        return geometric_median(points, weights, self._steps).astype(np.float32)


def geometric_median(points: _Vectors, weights: _Vectors, steps: int) -> _Vectors:
    """The point whose weighted distances to the given ones are least together.

    Args:
        points: (N, D).
        weights: (N,), positive.
        steps: of Weiszfeld, from the middle value of each coordinate on: from the mean, one point
            far away takes a step for each power of N - 1 in its distance.

    Returns:
        (D,); of one or two points the weighted mean.
    """
    if len(points) < 3:
        return np.average(points, axis=0, weights=weights)
    found: _Vectors = np.median(points, axis=0)
    for _ in range(steps):
        apart = np.linalg.norm(points - found, axis=1)
        usual = float(np.median(apart))
        if usual == 0:
            break  # Most sites say just this.
        shares = weights / np.maximum(apart, _SMOOTHING * usual)
        found = np.average(points, axis=0, weights=shares)
    return found


RFA = Strategy(
    "rfa",
    "Pillutla et al. 2022",
    options={"steps": 16},
    aggregate=GeometricMedian,
)
