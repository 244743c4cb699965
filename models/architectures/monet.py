"""MoNet: a shallow U-Net of repeated, decreasingly dilated convolutions.

Knolle et al., "Efficient, high-performance semantic segmentation using multi-scale feature
extraction" (2020). Layer sizes, batch norm constants and the head follow the authors' code
(TUM-AIMED/MoNet), where it differs from the paper's text: 4x4 kernels down and up, and a head of
1x1 convolution and batch norm. Counted as Keras counts (parameters and running statistics) the
network for one structure has 403,556, the paper's figure; the convolutions' padding is Keras's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.keras import MOMENTUM, batch_norm, he_uniform, keep_pace, start_at


class ConvBlock(nn.Module):
    """3x3 (or 4x4 strided) convolution without bias, batch norm, ELU ("CBE")."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1, stride: int = 1) -> None:
        super().__init__()
        kernel, padding = (4, 1) if stride == 2 else (3, dilation)
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation=dilation, bias=False
        )
        self.norm = batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.elu(self.norm(self.conv(x)))


class UpBlock(nn.Module):
    """4x4 transposed convolution with stride 2 that keeps the channels, batch norm, ELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, 2, 1, bias=False)
        self.norm = batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.elu(self.norm(self.conv(x)))


class RDDC(nn.Module):
    """Repeated decreasingly dilated convolution: dilations 4, 3, 2, 1 with short connections.

    Args:
        channels: in and out.
        dropout: spatial dropout after the first three blocks.
        outer_residual: also add the input to the output. The code did so until 31 January 2021,
            after the paper; the authors call its removal a fix, so it is off by default. Which
            of both made the paper's Table 1 is open; the parameter count is the same.
    """

    def __init__(self, channels: int, dropout: float, outer_residual: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvBlock(channels, channels, d) for d in (4, 3, 2, 1))
        self.drop = nn.Dropout2d(dropout)
        self.outer_residual = outer_residual

    def forward(self, x: Tensor) -> Tensor:
        first = self.drop(self.blocks[0](x))
        second = self.drop(self.blocks[1](x + first))
        third = self.drop(self.blocks[2](second))
        out: Tensor = self.blocks[3](second + third)
        return x + out if self.outer_residual else out


class MoNet(nn.Module):
    """MoNet with depth 2 and 16 initial filters, as published; logits out.

    Input (N, 1, Y, X) with sides that are multiples of 4; output (N, channels, Y, X). The sigmoid
    (one structure) or softmax (several) that ends the paper's network belongs to the loss and the
    manifest here.

    Args:
        channels: 1 for the paper's binary network; structures + background for softmax.
        filters: of the finest level, doubled below.
        dropout: spatial dropout inside the RDDC blocks (0.2 in the authors' code).
        outer_residual: see :class:`RDDC`.
        prior: as in :class:`models.architectures.unet2d.UNet2d`. The head's batch norm holds a
            fresh network at a half: Dice alone takes thousands of steps to leave it.
        momentum: as there.
    """

    def __init__(
        self,
        channels: int,
        filters: int = 16,
        dropout: float = 0.2,
        outer_residual: bool = False,
        prior: float | None = None,
        momentum: float = MOMENTUM,
    ) -> None:
        super().__init__()
        a, b, c = filters, 2 * filters, 4 * filters

        def rddc(width: int) -> RDDC:
            return RDDC(width, dropout, outer_residual)

        self.encode0 = nn.Sequential(ConvBlock(1, a), rddc(a))
        self.encode1 = nn.Sequential(ConvBlock(a, a, stride=2), ConvBlock(a, b), rddc(b))
        self.bottleneck = nn.Sequential(ConvBlock(b, b, stride=2), ConvBlock(b, c), rddc(c))
        self.up1 = UpBlock(c)
        self.decode1 = nn.Sequential(ConvBlock(b + c, b), rddc(b))
        self.up0 = UpBlock(b)
        self.decode0 = nn.Sequential(ConvBlock(a + b, a), rddc(a))
        norm = batch_norm(channels)
        self.head = nn.Sequential(nn.Conv2d(a, channels, 1, bias=False), norm)
        self.apply(he_uniform)
        start_at(norm, prior)
        keep_pace(self, momentum)

    def forward(self, x: Tensor) -> Tensor:
        skip0 = self.encode0(x)
        skip1 = self.encode1(skip0)
        x = self.up1(self.bottleneck(skip1))
        x = self.decode1(torch.cat([skip1, x], 1))
        x = self.decode0(torch.cat([skip0, self.up0(x)], 1))
        out: Tensor = self.head(x)
        return out
