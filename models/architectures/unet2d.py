"""The 2D U-Nets that MoNet is compared with: U-Net-64, U-Net-16 and an attention U-Net.

Knolle et al., "Efficient, high-performance semantic segmentation using multi-scale feature
extraction" (2020), Table 1; layers as in the authors' code (TUM-AIMED/MoNet). Counted as Keras
counts, the networks for one structure have the paper's 31,054,145, 1,946,705 and 31,753,349.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.keras import (
    MOMENTUM,
    batch_norm,
    glorot_uniform,
    he_uniform,
    keep_pace,
    start_at,
)

LEVELS = 4


class ConvBlock(nn.Module):
    """Twice 3x3 convolution with bias, ReLU and then batch norm, with spatial dropout between.

    The order is the authors': the activation is part of their convolution.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm0 = batch_norm(outputs)
        self.drop = nn.Dropout2d(dropout)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm1 = batch_norm(outputs)
        self.apply(he_uniform)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm0(functional.relu(self.conv0(x))))
        out: Tensor = self.norm1(functional.relu(self.conv1(x)))
        return out


class AttentionGate(nn.Module):
    """Scales every pixel of a skip connection by 0..1, after Oktay et al. (2018).

    As in the authors' code, the gate looks at the tensor that is already upsampled (Oktay's at
    the coarser one) and has no batch norm. ``skip`` and ``below`` are (N, channels, Y, X).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(channels, channels, 1)
        self.below = nn.Conv2d(channels, channels, 1)
        self.join = nn.Conv2d(channels, 1, 1)
        self.apply(he_uniform)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        joined = functional.relu(self.skip(skip) + self.below(below))
        return skip * torch.sigmoid(self.join(joined))


class UpStep(nn.Module):
    """2x2 transposed convolution that halves the channels, the skip behind it, a block."""

    def __init__(self, channels: int, attention: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, 2)
        self.gate = AttentionGate(channels) if attention else None
        self.block = ConvBlock(2 * channels, channels)
        glorot_uniform(self.up)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        if self.gate is not None:
            skip = self.gate(skip, x)
        out: Tensor = self.block(torch.cat([x, skip], 1))
        return out


class UNet2d(nn.Module):
    """A U-Net with four 2x2 max poolings; logits out.

    Input (N, 1, Y, X) with sides that are multiples of 16; output (N, channels, Y, X). The
    sigmoid that ends the paper's network belongs to the loss and the manifest here.

    Args:
        channels: 1 for the paper's binary network; structures + background for softmax.
        filters: of the finest level, doubled below: 64 or 16 in the paper.
        dropout: spatial dropout in the encoder and the bottleneck (0.3 in the authors' code).
        attention: gate the skip connections, see :class:`AttentionGate`.
        prior: part of the pixels that fresh weights call foreground; ``None`` is the paper's
            half, from which a short training does not come back.
        momentum: part of each batch in batch norm's running statistics. Keras' hundredth needs
            hundreds of steps to forget the first weights.
    """

    def __init__(
        self,
        channels: int,
        filters: int = 64,
        dropout: float = 0.3,
        attention: bool = False,
        prior: float | None = None,
        momentum: float = MOMENTUM,
    ) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(LEVELS + 1)]
        self.encode = nn.ModuleList(
            ConvBlock(a, b, dropout) for a, b in zip([1, *widths], widths, strict=False)
        )
        self.decode = nn.ModuleList(UpStep(width, attention) for width in widths[-2::-1])
        self.head = nn.Conv2d(filters, channels, 1)
        glorot_uniform(self.head)
        start_at(self.head, prior)
        keep_pace(self, momentum)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for block in self.encode:
            x = block(functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for step, skip in zip(self.decode, skips[-2::-1], strict=True):
            x = step(x, skip)
        out: Tensor = self.head(x)
        return out
