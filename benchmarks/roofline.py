"""What no network can beat on this machine: its operations at the rate of a matrix product.

Nothing is counted but what must be done: the operations of the convolutions and products, by their
definition, and every byte of input, output and weights once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.frame import turns

# Precisions, by OpenVINO's names for them.
_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
_COPY = "copy, bytes/s"
# A product this large is as fast as any, and a copy this large is in no cache.
_SIDE, _COPIED = 2048, 2**27
_AT_LEAST_S = 0.5
_TURNS = 3


@dataclass(frozen=True)
class Rates:
    """What a machine reached.

    Attributes:
        product: operations a second of a matrix product, by precision: ``f32``, ``bf16``.
        copy: bytes a second that a copy in memory reads and writes.
    """

    product: Mapping[str, float]
    copy: float


def operations(network: nn.Module, example: Tensor) -> int:
    """Additions and multiplications that a network does for an input.

    Args:
        network: put into evaluation mode, and run once.
        example: (N, 1, *space).
    """
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network.eval()(example)
    return int(counter.get_total_flops())


def traffic(network: nn.Module, precision: str, arrays: int) -> int:
    """Bytes that must move: a network's weights, and those of its input and output.

    Args:
        network: whose weights are read once.
        precision: ``f32`` or ``bf16``, that the weights are kept in.
        arrays: bytes of input and output.
    """
    return arrays + _TYPES[precision].itemsize * sum(p.numel() for p in network.parameters())


def least_seconds(count: int, moved: int, found: Rates, precision: str) -> float:
    """What computing takes at the least, or moving the bytes: the greater of both.

    Args:
        count: operations.
        moved: bytes.
        found: rates of the machine.
        precision: ``f32`` or ``bf16``, of the operations.
    """
    return max(count / found.product[precision], moved / found.copy)


def rates(threads: int) -> Rates:
    """What this machine reaches now; takes some seconds."""
    return rates_of(turns(probes(threads), _TURNS))


def probes(threads: int) -> dict[str, Callable[[], float]]:
    """Sides of :func:`benchmarks.frame.turns` that measure the rates, about half a second each.

    Among the sides of a benchmark: what disturbs those disturbs these.

    Args:
        threads: of a product or a copy.
    """
    source = torch.ones(_COPIED, dtype=torch.uint8)
    copy = partial(torch.empty_like(source).copy_, source)
    found = {_side(p): partial(_rate, _product(p), 2 * _SIDE**3, threads) for p in _TYPES}
    return {**found, _COPY: partial(_rate, copy, 2 * _COPIED, threads)}


def rates_of(measured: Mapping[str, Sequence[float]]) -> Rates:
    """The medians of what the sides of :func:`probes` measured."""
    return Rates({p: median(measured[_side(p)]) for p in _TYPES}, median(measured[_COPY]))


def _side(precision: str) -> str:
    return f"product {precision}, 1/s"


def _product(precision: str) -> Callable[[], Tensor]:
    one, other, out = torch.ones(3, _SIDE, _SIDE, dtype=_TYPES[precision])
    return partial(torch.mm, one, other, out=out)


def _rate(work: Callable[[], object], amount: int, threads: int) -> float:
    """How much of a work is done in a second, the first time not counted."""
    with _threads(threads):
        work()
        done, start = 0, time.perf_counter()
        while (taken := time.perf_counter() - start) < _AT_LEAST_S:
            work()
            done += amount
    return done / taken


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
