"""The mean of sites' updates, summed as they arrive: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from federation.parts import Rows, Weights
from imaging.errors import UpdateRefused


class Aggregate(Protocol):
    """What becomes of the updates of one round."""

    @property
    def sites(self) -> int:
        """How many updates are in."""
        ...

    def add(
        self, update: Mapping[str, NDArray[np.float32]], weight: float, labelled: frozenset[int]
    ) -> None:
        """Add a site's update, as :meth:`Average.add` does."""
        ...

    def result(self) -> Weights:
        """One difference for every tensor, float32."""
        ...


class Average:
    """A weighted mean of updates, in float64: the order of sites matters to its rounding alone.

    Args:
        shapes: of the tensors that every update has.
        rows: tensors whose slices are averaged over those sites alone that label their channel
            (label-aware weighting); the others are averaged over all.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], rows: Mapping[str, Rows] | None = None
    ) -> None:
        self._rows = dict(rows or {})
        self._sums = {name: np.zeros(shape, np.float64) for name, shape in shapes.items()}
        self._weights: dict[str, NDArray[np.float64]] = {
            name: np.zeros(len(self._rows[name].channels) if name in self._rows else 1)
            for name in shapes
        }
        self._sites = 0

    @property
    def sites(self) -> int:
        """How many updates are in."""
        return self._sites

    def add(
        self, update: Mapping[str, NDArray[np.float32]], weight: float, labelled: frozenset[int]
    ) -> None:
        """Add a site's update, all of it or nothing.

        Args:
            update: a difference for every tensor.
            weight: of the site.
            labelled: output channels that the site has labels for, the background's among them.

        Raises:
            UpdateRefused: tensors missing or too many, of another shape, or not finite.
        """
        self._check(update, weight)
        for name, values in update.items():
            share: NDArray[np.float64] = np.array([weight])
            if name in self._rows:
                channels = self._rows[name].channels
                share = np.array([weight if c in labelled else 0.0 for c in channels])
            self._weights[name] += share
            self._sums[name] += values * self._along(name, share)
        self._sites += 1

    def result(self) -> Weights:
        """The mean, float32; 0 where no site has a say."""
        found: Weights = {}
        for name, total in self._sums.items():
            weight = self._weights[name]
            share = np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0)
            found[name] = (total * self._along(name, share)).astype(np.float32)
        return found

    def _along(self, name: str, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """A factor for each slice, to multiply a tensor with."""
        if name not in self._rows:
            return share.reshape(()) if self._sums[name].ndim == 0 else share
        shape = [1] * self._sums[name].ndim
        shape[self._rows[name].axis] = -1
        return share.reshape(shape)

    def _check(self, update: Mapping[str, NDArray[np.float32]], weight: float) -> None:
        other = sorted(set(update) ^ set(self._sums))
        if other:
            raise UpdateRefused(
                f"The update lacks or adds {len(other)} tensors, {other[0]!r} among them; train "
                "the job's own network.",
                tensors=other[:8],
            )
        for name, values in update.items():
            if values.shape != self._sums[name].shape:
                raise UpdateRefused(
                    f"The update's {name} is {values.shape}, not {self._sums[name].shape}; train "
                    "the job's own network.",
                    tensor=name,
                )
            if not np.isfinite(values).all():
                raise UpdateRefused(
                    f"The update's {name} is not finite; lower the learning rate.", tensor=name
                )
        if not (np.isfinite(weight) and weight > 0):
            raise UpdateRefused(f"A site's weight must be positive, not {weight}.")
