"""FedOpt: the mean update is a gradient for the server's optimizer (Reddi et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federation.parts import Weights, under
from federation.strategies.strategy import Strategy


class ServerOptimizer:
    """SGD with momentum; with ``beta2`` over 0 Adam without bias correction, as in the paper.

    Args:
        options: ``lr`` of the server, ``momentum``, ``beta2``, ``tau`` (Adam's adaptivity).
    """

    def __init__(self, options: Mapping[str, float]) -> None:
        self._options = options
        self._first: Weights = {}
        self._second: Weights = {}

    def step(self, mean: Weights, statistics: frozenset[str]) -> Weights:
        """The optimizer's step for weights, the mean itself for statistics."""
        return {
            name: value if name in statistics else self._moved(name, value)
            for name, value in mean.items()
        }

    def state(self) -> Weights:
        """Both moments by tensor."""
        first = {f"first/{name}": value for name, value in self._first.items()}
        return first | {f"second/{name}": value for name, value in self._second.items()}

    def restore(self, state: Weights) -> None:
        """Go on with kept moments."""
        self._first, self._second = under("first/", state), under("second/", state)

    def _moved(self, name: str, value: np.ndarray) -> np.ndarray:
        beta, beta2 = self._options["momentum"], self._options["beta2"]
        before = self._first.get(name, np.zeros_like(value))
        # Adam's first moment is a mean of gradients, SGD's momentum their fading sum.
        fresh = (1 - beta) * value if beta2 else value
        self._first[name] = (beta * before + fresh).astype(np.float32)
        step = self._options["lr"] * self._first[name]
        if beta2:
            seen = self._second.get(name, np.full_like(value, self._options["tau"] ** 2))
            self._second[name] = (beta2 * seen + (1 - beta2) * value**2).astype(np.float32)
            step = step / (np.sqrt(self._second[name]) + self._options["tau"])
        return step.astype(np.float32)


# ConDistFL's server: SGD with a rate of 1 and momentum 0.6. Adam's figures are the paper's.
FEDOPT = Strategy(
    "fedopt",
    "Reddi et al. 2021",
    options={"lr": 1.0, "momentum": 0.6, "beta2": 0.0, "tau": 1e-3},
    server=ServerOptimizer,
)
