"""A small 3D U-Net for low-resolution volumes: MONAI's DynUNet with instance norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from imaging.errors import BadParameter


class _DeepDynUNet(DynUNet):  # type: ignore[misc]
    """With heads on coarser levels, which training alone looks at."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        # MONAI keeps what the heads gave, with its whole graph, and then cannot be copied.
        self.heads[:] = [torch.zeros(1)] * len(self.heads)
        return out

    def exportable(self) -> nn.Module:
        """The same network without those heads: they have no part in its answer."""
        plain = dynunet(self.out_channels, self.filters)
        own = self.state_dict()
        plain.load_state_dict({name: own[name] for name in plain.state_dict()})
        return plain


def dynunet(channels: int, filters: Sequence[int] = (16, 32, 64, 128), deep: int = 0) -> nn.Module:
    """A plain U-Net (two 3x3x3 convolutions a level, strided down, transposed up).

    Input (N, 1, Z, Y, X) with sides that are multiples of ``2 ** (len(filters) - 1)``; output
    logits (N, channels, Z, Y, X). With deep supervision the output in training mode is
    (N, 1 + deep, channels, Z, Y, X), finest first, the coarser ones brought to full size.

    Args:
        channels: output channels.
        filters: channels of each level (3 or 4), finest first.
        deep: levels of deep supervision, from the second finest on, 0 to ``len(filters) - 2``.

    Raises:
        BadParameter: another number of levels, of the network or of its supervision.
    """
    levels = len(filters)
    if not 3 <= levels <= 4:
        # More would need inputs of larger multiples than the registry's divisor promises.
        raise BadParameter(f"dynunet has 3 or 4 levels, not {levels}; filters are {filters}.")
    if not 0 <= deep <= levels - 2:
        raise BadParameter(
            f"A dynunet of {levels} levels has 0 to {levels - 2} deep heads, not {deep}."
        )
    return (_DeepDynUNet if deep else DynUNet)(
        spatial_dims=3,
        in_channels=1,
        out_channels=channels,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(filters),
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=deep > 0,
        deep_supr_num=max(1, deep),
    )
