"""SegViz's network: MONAI's residual 3D U-Net with batch norm, a trunk and a task's head.

Kanhere et al., "SegViz: A federated-learning based framework for multi-organ segmentation on
heterogeneous data sets with partial annotations" (2023), and the authors' notebooks
(UM2ii/SegViz): 4,808,917 parameters with two outputs, of which the sites share the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import UNet
from torch import nn

from imaging.errors import BadParameter

LEVELS = 5


def segviz_unet(channels: int, filters: Sequence[int] = (16, 32, 64, 128, 256)) -> nn.Module:
    """A U-Net with two residual units a level, strided down, transposed up.

    Input (N, 1, Z, Y, X) with sides that are multiples of 16; output logits
    (N, channels, Z, Y, X).

    Args:
        channels: 2 in the paper, the background and the organ of a site.
        filters: channels of each of the five levels, finest first.

    Raises:
        BadParameter: another number of levels.
    """
    if len(filters) != LEVELS:
        raise BadParameter(
            f"segviz_unet has {LEVELS} levels, not {len(filters)}; filters are {tuple(filters)}."
        )
    return UNet(  # type: ignore[no-any-return]
        spatial_dims=3,
        in_channels=1,
        out_channels=channels,
        channels=list(filters),
        strides=[2] * (LEVELS - 1),
        num_res_units=2,
        norm="BATCH",
    )


def is_head(name: str) -> bool:
    """Whether a parameter's name is of the task's head, which SegViz keeps at its site.

    The head is the last step up: a transposed convolution, batch norm, PReLU and a convolution.
    The rest is the trunk.
    """
    return name.startswith("model.2.")
