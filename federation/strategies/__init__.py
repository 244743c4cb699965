"""Strategies by name. To add one: a file here and an entry in ``STRATEGIES``."""

from __future__ import annotations

import math
from collections.abc import Mapping

from federation.strategies.condist import CONDIST
from federation.strategies.fedavg import FEDAVG
from federation.strategies.fedbn import FEDBN
from federation.strategies.fedopt import FEDOPT
from federation.strategies.fedprox import FEDPROX
from federation.strategies.rfa import RFA
from federation.strategies.strategy import ServerStep, Start, Strategy
from imaging.errors import BadParameter

_ALL = (FEDAVG, FEDBN, FEDPROX, FEDOPT, CONDIST, RFA)
STRATEGIES: Mapping[str, Strategy] = {strategy.name: strategy for strategy in _ALL}

__all__ = ["STRATEGIES", "ServerStep", "Start", "Strategy", "options_of", "strategy"]


def strategy(name: str) -> Strategy:
    """The named strategy.

    Raises:
        BadParameter: no such strategy.
    """
    if name not in STRATEGIES:
        raise BadParameter(f"There is no strategy {name!r}; choose from {', '.join(STRATEGIES)}.")
    return STRATEGIES[name]


def options_of(name: str, given: Mapping[str, float]) -> dict[str, float]:
    """A strategy's figures, those that are given in place of its defaults.

    Raises:
        BadParameter: a figure that the strategy does not have, or that none can be.
    """
    defaults = strategy(name).options
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise BadParameter(
            f"The strategy {name} has no {unknown}; it has {', '.join(defaults) or 'no figures'}."
        )
    wrong = {name: v for name, v in given.items() if not (math.isfinite(v) and v >= 0)}
    if wrong:
        raise BadParameter(f"Figures of {name} are finite and not negative, not {wrong}.")
    return {**defaults, **given}
