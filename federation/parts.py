"""Which tensors of a network travel between sites, and which of their rows belong to one label."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from imaging.errors import BadParameter
from models.architectures import ARCHITECTURES
from models.architectures.segviz_unet import is_head
from training.recipe import Recipe

# What a strategy or a job may leave at its site.
NORMS, HEAD = "norms", "head"

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Parts:
    """The tensors of a network's state by what becomes of them.

    Attributes:
        shared: names of those that travel.
        norms: names of those of normalisation layers that stay at their site; FedBN's.
        statistics: names among ``shared`` that are no weights: running means and variances.
    """

    shared: tuple[str, ...]
    norms: tuple[str, ...]
    statistics: frozenset[str]


@dataclass(frozen=True)
class Rows:
    """A tensor with one slice for each output channel of its network.

    Attributes:
        axis: along which the slices lie.
        channels: the output channel of each slice.
    """

    axis: int
    channels: tuple[int, ...]


def parts_of(network: nn.Module, architecture: str, keeps: Iterable[str] = ()) -> Parts:
    """Sort a network's tensors.

    Normalisation layers are found by their type: names lie (MONAI calls them ``adn.N``). Counters
    (integers) never travel, they are no average of anything. A tensor that a network has under
    several names (MONAI's DynUNet names every layer twice) goes by the first alone.

    Args:
        network: built from the architecture.
        architecture: key of ``ARCHITECTURES``.
        keeps: of ``NORMS`` and ``HEAD``, what stays at its site.

    Raises:
        BadParameter: a head is to stay in a network that names none.
    """
    if HEAD in keeps and architecture != "segviz_unet":
        raise BadParameter(
            f"local_head is for segviz_unet, whose head is known, not for {architecture}."
        )
    of_norms = _names_of_norms(network)
    kept_norms = of_norms if NORMS in keeps else frozenset[str]()
    firsts = {n for n, _ in (*network.named_parameters(), *network.named_buffers())}
    floating = [n for n, t in network.state_dict().items() if n in firsts and t.is_floating_point()]
    shared = tuple(
        n for n in floating if n not in kept_norms and not (HEAD in keeps and is_head(n))
    )
    weights = {n for n, _ in network.named_parameters()}
    return Parts(
        shared=shared,
        norms=tuple(n for n in floating if n in kept_norms),
        statistics=frozenset(shared) - weights,
    )


def shared_weights(network: nn.Module, names: Iterable[str]) -> Weights:
    """Copies of named tensors, float32."""
    state = network.state_dict()
    return {n: state[n].detach().cpu().float().numpy().copy() for n in names}


def put(network: nn.Module, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Write tensors into a network; every other one stays untouched."""
    state = network.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            state[name].copy_(torch.from_numpy(np.require(value, requirements="W")))


def moved(weights: Mapping[str, NDArray[np.float32]], change: Weights) -> Weights:
    """Weights and a change added up, alike on the server and at every site, to the last bit.

    A variance stays one: rounding and noise may take it below 0.
    """
    return {
        name: np.maximum(value + change[name], 0 if name.endswith("running_var") else -np.inf)
        for name, value in weights.items()
    }


def under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin with a prefix, without it."""
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def rows_of(network: nn.Module, recipe: Recipe) -> dict[str, Rows]:
    """The tensors whose slices each serve one output channel alone.

    Found by gradients: a slice belongs to a channel if that channel's scores depend on it and no
    other's do. So a transposed convolution, whose outputs lie on its second axis, is found as
    well as a convolution, and one that is followed by a layer which mixes channels is not.

    Args:
        network: of the recipe.
        recipe: its architecture and channels.
    """
    entry = ARCHITECTURES[recipe.architecture]
    probe = copy.deepcopy(network).float().cpu().train()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((1, 1, *(2 * entry.divisor,) * entry.dims), generator=generator)
    scores = probe(x)
    # Levels of a deep supervision share their channels.
    by_channel = scores.flatten(0, 1) if scores.ndim == x.ndim + 1 else scores
    weight = torch.rand(by_channel.shape, generator=generator)
    named = {n: p for n, p in probe.named_parameters() if p.requires_grad and p.ndim}
    touched = [
        _touched((by_channel[:, c] * weight[:, c]).sum(), named) for c in range(recipe.channels)
    ]
    found = {}
    for name, parameter in named.items():
        for axis in range(min(2, parameter.ndim)):
            owners = _owners([t[name] for t in touched], axis)
            if owners is not None:
                found[name] = Rows(axis, owners)
                break
    return found


def _touched(score: Tensor, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where a score depends on each parameter, bool."""
    found = torch.autograd.grad(score, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(p, dtype=torch.bool) if g is None else g != 0
        for (name, p), g in zip(named.items(), found, strict=True)
    }


def _owners(touched: list[Tensor], axis: int) -> tuple[int, ...] | None:
    """The channel of each slice along an axis; ``None`` unless every channel has its own.

    A channel has one slice, or in a sub-pixel layer one for each voxel of a block.
    """
    each, rest = divmod(touched[0].shape[axis], len(touched))
    if rest or not each or len(touched) < 2:
        return None
    used = torch.stack([t.movedim(axis, 0).reshape(t.shape[axis], -1).any(1) for t in touched], 1)
    if not bool((used.sum(1) == 1).all() and (used.sum(0) == each).all()):
        return None
    return tuple(used.int().argmax(1).tolist())


def _names_of_norms(network: nn.Module) -> frozenset[str]:
    """Names of all tensors of batch, instance and group norms."""
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, _NormBase | nn.GroupNorm)
        for name in module.state_dict()
    )
