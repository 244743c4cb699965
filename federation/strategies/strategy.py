"""What a strategy is: what a site adds to its objective and what the server does with updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from federation.aggregate import Aggregate, Average
from federation.parts import Rows, Weights
from training.objective import Penalty
from training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Start:
    """What a site knows when a round's training begins.

    Attributes:
        network: with the received weights in.
        shared: names of the tensors that were received.
        recipe: of the site.
        annotated: structures the site's labels speak of.
        round, rounds: counted from 0, and how many there are.
        options: figures of the strategy.
    """

    network: nn.Module
    shared: frozenset[str]
    recipe: Recipe
    annotated: tuple[str, ...]
    round: int
    rounds: int
    options: Mapping[str, float]


class ServerStep(Protocol):
    """Turns the sites' aggregated update into the change of the global model, with a memory."""

    def step(self, mean: Weights, statistics: frozenset[str]) -> Weights:
        """The change; statistics (running means) are no gradients and pass through."""
        ...

    def state(self) -> Weights:
        """The memory, to keep between rounds."""
        ...

    def restore(self, state: Weights) -> None:
        """Go on with a kept memory."""
        ...


Shapes = Mapping[str, tuple[int, ...]]


def averaged(shapes: Shapes, rows: Mapping[str, Rows], options: Mapping[str, float]) -> Aggregate:
    """The weighted mean: every site is believed."""
    del options
    return Average(shapes, rows)


class Plain:
    """The aggregated update itself is the change: federated averaging."""

    def step(self, mean: Weights, statistics: frozenset[str]) -> Weights:  # noqa: ARG002
        """The mean."""
        return mean

    def state(self) -> Weights:
        """Nothing."""
        return {}

    def restore(self, state: Weights) -> None:
        """Nothing to go on with."""


@dataclass(frozen=True)
class Strategy:
    """One way to train together.

    Attributes:
        name: key of ``STRATEGIES``.
        source: the paper.
        keeps: parts that stay at their site, of ``federation.parts``.
        options: its figures with their defaults.
        penalty: makes what a site minimises besides its loss in a round.
        aggregate: makes a round's empty aggregate from the tensors' shapes, the rows that belong
            to one label, and the options.
        server: makes the server's step from the options.
    """

    name: str
    source: str
    keeps: frozenset[str] = frozenset()
    options: Mapping[str, float] = field(default_factory=dict)
    penalty: Callable[[Start], Penalty] | None = None
    aggregate: Callable[[Shapes, Mapping[str, Rows], Mapping[str, float]], Aggregate] = averaged
    server: Callable[[Mapping[str, float]], ServerStep] = lambda _: Plain()
