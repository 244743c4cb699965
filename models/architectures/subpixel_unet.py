"""A 3D U-Net that works at half its input's resolution and answers at the whole one.

The first layer trades blocks of 2x2x2 voxels for channels and the last one trades them back
(sub-pixel convolution: Shi et al. 2016, "Real-time single image and video super-resolution using
an efficient sub-pixel convolutional neural network"). No voxel is thrown away on the way in, edges
are as fine as the input on the way out, and everything between costs an eighth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from imaging.errors import BadParameter

_SIDE = 2
# Statistics of batch norms are those of the last fifty batches or so: patches differ much.
_NORMS = {"instance": {"affine": True}, "batch": {"affine": True, "momentum": 0.02}}


class SubpixelUNet(nn.Module):
    """Two 3x3x3 convolutions a level, strided down, transposed up, a norm after each.

    Input (N, 1, Z, Y, X) with sides that are multiples of ``2 ** len(filters)``; output logits
    (N, channels, Z, Y, X).

    Args:
        channels: output channels.
        filters: channels of each level (3 or 4), finest first; the finest is at half resolution.
        norm: ``instance``, whose answer depends on what else a patch shows, or ``batch``, whose
            does not.

    Attributes:
        divisor: sides of its input are multiples of it.

    Raises:
        BadParameter: another number of levels, or another norm.
    """

    def __init__(
        self, channels: int, filters: Sequence[int] = (32, 64, 128), norm: str = "instance"
    ) -> None:
        super().__init__()
        if norm not in _NORMS:
            raise BadParameter(f"norm must be one of {', '.join(_NORMS)}, not {norm!r}.")
        levels = len(filters)
        if not 3 <= levels <= 4:
            raise BadParameter(
                f"subpixel_unet has 3 or 4 levels, not {levels}; filters are {filters}."
            )
        self.divisor = 2**levels
        block = _SIDE**3
        self.network = DynUNet(
            spatial_dims=3,
            in_channels=block,
            out_channels=block * channels,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=list(filters),
            norm_name=(norm, _NORMS[norm]),
        )
        _alike(self.network.output_block.conv.conv)

    def forward(self, x: Tensor) -> Tensor:
        return blocks_to_space(self.network(space_to_blocks(x)))


def _alike(head: nn.Conv3d) -> None:
    """Let the eight voxels of a block begin with one answer.

    Else every block has a pattern of its own from the start, and masks are hatched wherever the
    network is in doubt (Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution").
    """
    block = _SIDE**3
    with torch.no_grad():
        for values in (head.weight, head.bias):
            if values is not None:
                values.copy_(values[::block].repeat_interleave(block, 0))


def space_to_blocks(x: Tensor) -> Tensor:
    """(N, C, Z, Y, X) to (N, 8 C, Z/2, Y/2, X/2): each block of 2x2x2 voxels becomes channels."""
    n, c, z, y, w = x.shape
    s = _SIDE
    blocks = x.reshape(n, c, z // s, s, y // s, s, w // s, s).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return blocks.reshape(n, c * s**3, z // s, y // s, w // s)


def blocks_to_space(x: Tensor) -> Tensor:
    """(N, 8 C, Z, Y, X) to (N, C, 2 Z, 2 Y, 2 X), the inverse of :func:`space_to_blocks`."""
    n, c, z, y, w = x.shape
    s = _SIDE
    blocks = x.reshape(n, c // s**3, s, s, s, z, y, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return blocks.reshape(n, c // s**3, z * s, y * s, w * s)
