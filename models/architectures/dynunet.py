"""A small 3D U-Net for low-resolution volumes: MONAI's DynUNet with instance norm."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import DynUNet
from torch import nn

from imaging.errors import BadParameter


def dynunet(channels: int, filters: Sequence[int] = (16, 32, 64, 128)) -> nn.Module:
    """A plain U-Net (two 3x3x3 convolutions a level, strided down, transposed up).

    Input (N, 1, Z, Y, X) with sides that are multiples of ``2 ** (len(filters) - 1)``; output
    logits (N, channels, Z, Y, X).

    Args:
        channels: output channels.
        filters: channels of each level (3 or 4), finest first.

    Raises:
        BadParameter: another number of levels.
    """
    levels = len(filters)
    if not 3 <= levels <= 4:
        # More would need inputs of larger multiples than the registry's divisor promises.
        raise BadParameter(f"dynunet has 3 or 4 levels, not {levels}; filters are {filters}.")
    return DynUNet(  # type: ignore[no-any-return]
        spatial_dims=3,
        in_channels=1,
        out_channels=channels,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(filters),
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=False,
    )
