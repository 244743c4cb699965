"""Networks by name. To add one: a file here and an entry in ``ARCHITECTURES``.

An entry builds a ``torch.nn.Module`` that takes (N, 1, *space) float32 and gives logits
(N, channels, *space) of the same space; the contract test holds every entry to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from imaging.errors import BadParameter
from models.architectures.dynunet import dynunet
from models.architectures.monet import MoNet


@dataclass(frozen=True)
class Architecture:
    """A network that can be built by name.

    Attributes:
        build: ``build(channels, **options)``.
        dims: 2 or 3.
        divisor: sides of its input are multiples of it.
        source: the paper or library it follows.
    """

    build: Callable[..., nn.Module]
    dims: int
    divisor: int
    source: str


ARCHITECTURES: Mapping[str, Architecture] = {
    "monet": Architecture(MoNet, 2, 4, "Knolle et al. 2020 (MoNet)"),
    "dynunet": Architecture(dynunet, 3, 8, "MONAI DynUNet, nnU-Net's plain U-Net"),
}


def build(name: str, channels: int, **options: Any) -> nn.Module:
    """A network with fresh weights.

    Args:
        name: key of ``ARCHITECTURES``.
        channels: output channels, the background's included for softmax models.
        options: the architecture's own.

    Raises:
        BadParameter: no such architecture.
    """
    if name not in ARCHITECTURES:
        raise BadParameter(
            f"There is no architecture {name!r}; choose from {', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[name].build(channels, **options)
