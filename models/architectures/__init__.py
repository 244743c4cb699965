"""Networks by name. To add one: a file here and an entry in ``ARCHITECTURES``.

An entry builds a ``torch.nn.Module`` that takes (N, 1, *space) float32 and gives logits
(N, channels, *space) of the same space; the contract test holds every entry to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from imaging.errors import BadParameter
from models.architectures.c2fnas import C2FNAS
from models.architectures.dodnet import DoDNet
from models.architectures.kits21_resunet import KiTS21ResUNet
from models.architectures.monet import MoNet
from models.architectures.unet2d import UNet2d


@dataclass(frozen=True)
class Architecture:
    """A network that can be built by name.

    Attributes:
        build: ``build(channels, **options)``.
        dims: 2 or 3.
        divisor: sides of its input are multiples of it, and at least twice it.
        channels: output channels of the paper's own network.
        source: the paper or library it follows.
    """

    build: Callable[..., nn.Module]
    dims: int
    divisor: int
    channels: int
    source: str

    def __post_init__(self) -> None:
        if self.dims not in (2, 3) or self.divisor < 1 or self.channels < 1:
            raise BadParameter(
                "An architecture has 2 or 3 dims, a divisor and channels from 1 on, not "
                f"{self.dims}, {self.divisor} and {self.channels}."
            )


def _of_monai(module: str, name: str) -> Callable[..., nn.Module]:
    """A network made of MONAI's parts, whose module is imported when the first one is built.

    MONAI takes four seconds to import, in every process of a site that may never need it.
    """

    def made(channels: int, **options: Any) -> nn.Module:
        network = getattr(import_module(f"{__name__}.{module}"), name)(channels, **options)
        assert isinstance(network, nn.Module)
        return network

    return made


_MONET = "Knolle et al. 2020 (MoNet)"

ARCHITECTURES: Mapping[str, Architecture] = {
    "monet": Architecture(MoNet, 2, 4, 1, _MONET),
    "unet64": Architecture(UNet2d, 2, 16, 1, f"{_MONET}: U-Net-64"),
    "unet16": Architecture(partial(UNet2d, filters=16), 2, 16, 1, f"{_MONET}: U-Net-16"),
    "attention_unet": Architecture(
        partial(UNet2d, attention=True), 2, 16, 1, f"{_MONET}: Attention U-Net"
    ),
    "dynunet": Architecture(
        _of_monai("dynunet", "dynunet"), 3, 8, 2, "MONAI DynUNet, nnU-Net's plain U-Net"
    ),
    "subpixel_unet": Architecture(
        _of_monai("subpixel_unet", "SubpixelUNet"),
        3,
        16,
        2,
        "a plain U-Net between Shi et al. 2016's sub-pixel layers",
    ),
    "lesion_cascade": Architecture(
        _of_monai("lesion_cascade", "LesionCascade"),
        3,
        16,
        3,
        "two of subpixel_unet: organs, and lesions in them",
    ),
    "c2fnas": Architecture(C2FNAS, 3, 16, 3, "Wang et al. 2020, like C2FNAS (Yu et al. 2020)"),
    "segviz_unet": Architecture(
        _of_monai("segviz_unet", "segviz_unet"), 3, 16, 2, "Kanhere et al. 2023 (SegViz)"
    ),
    "dodnet": Architecture(DoDNet, 3, 16, 2, "Zhang et al. 2021 (DoDNet)"),
    "kits21_resunet": Architecture(
        KiTS21ResUNet, 3, 16, 4, "Yang et al. 2021 (transfer learning for KiTS21)"
    ),
}


def build(name: str, channels: int | None = None, **options: Any) -> nn.Module:
    """A network with fresh weights.

    Args:
        name: key of ``ARCHITECTURES``.
        channels: output channels, the background's included for softmax models; ``None`` takes
            the paper's.
        options: the architecture's own.

    Raises:
        BadParameter: no such architecture, channels under 1, or an option outside its range.
    """
    if name not in ARCHITECTURES:
        raise BadParameter(
            f"There is no architecture {name!r}; choose from {', '.join(ARCHITECTURES)}."
        )
    entry = ARCHITECTURES[name]
    channels = entry.channels if channels is None else channels
    if channels < 1:
        raise BadParameter(f"A network has at least 1 output channel, not {channels}.")
    return entry.build(channels, **options)
