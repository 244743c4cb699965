"""DoDNet: one 3D U-Net for partly labelled data sets, with a head made for each task.

Zhang et al., "DoDNet: Learning to segment multi-organ and tumors from multiple partially labeled
datasets" (CVPR 2021). Layer sizes follow the authors' code (jianpengz/DoDNet, a_DynConv); the
network for the seven tasks of MOTS has 17,329,528 parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from imaging.errors import BadParameter
from models.architectures.dynamic_head import DynamicHead

# (inputs, outputs, kernel, stride) to a convolution without bias that keeps the size at stride 1.
_Conv = Callable[[int, int, int, int], nn.Module]
_Norm = Callable[[int], nn.Module]


class StandardisedConv3d(nn.Conv3d):
    """A convolution whose every filter is brought to mean 0 and variance 1 before its use.

    Weight standardisation (Qiao et al. 2019) with the authors' epsilon, 1e-12 under the root.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = self.standardised()
        return functional.conv3d(x, weight, None, self.stride, self.padding)

    def standardised(self) -> Tensor:
        """The weights in use (outputs, inputs, Z, Y, X)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3, 4), keepdim=True)
        return (self.weight - mean) / torch.sqrt(variance + 1e-12)

    def exportable(self) -> nn.Module:
        """A plain convolution with those weights as they are now."""
        plain = nn.Conv3d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            bias=False,
        )
        plain.weight = nn.Parameter(self.standardised().detach())
        return plain


class PreActivationBlock(nn.Module):
    """Group norm, ReLU, 3x3x3 convolution, twice, and the input added.

    Where the shape changes the added input is brought there by group norm, ReLU and a 1x1x1
    convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, conv: _Conv, norm: _Norm) -> None:
        super().__init__()
        self.norm0 = norm(inputs)
        self.conv0 = conv(inputs, outputs, 3, stride)
        self.norm1 = norm(outputs)
        self.conv1 = conv(outputs, outputs, 3, 1)
        self.shortcut = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else nn.Sequential(norm(inputs), nn.ReLU(), conv(inputs, outputs, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv0(functional.relu(self.norm0(x)))
        out: Tensor = self.conv1(functional.relu(self.norm1(inner))) + self.shortcut(x)
        return out


class DoDNet(nn.Module):
    """DoDNet with the paper's dynamic head; logits out, a sigmoid for each.

    Input (N, 1, Z, Y, X) with sides that are multiples of 16; output (N, channels, Z, Y, X).

    Args:
        channels: of a task: 2 in the paper, an organ (its tumour included) and its tumour.
        widths: channels of the five levels, finest first.
        repeats: blocks of the encoder's levels.
        groups: of the group norms; they divide every width.
        tasks: number of tasks; the seven of MOTS in the paper.
        task: which of them the network does when it is asked for none.
        weight_std: standardise the weights of all convolutions but the head's input.
        head_width: channels of the dynamic head.

    Raises:
        BadParameter: not five levels, the last two of different widths, or no such task.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (32, 64, 128, 256, 256),
        repeats: Sequence[int] = (1, 2, 2, 2, 2),
        groups: int = 16,
        tasks: int = 7,
        task: int = 0,
        weight_std: bool = True,
        head_width: int = 8,
    ) -> None:
        super().__init__()
        if len(widths) != 5 or len(repeats) != 5 or widths[3] != widths[4]:
            raise BadParameter(
                "DoDNet has 5 levels, the last two of one width; "
                f"widths are {tuple(widths)}, repeats {tuple(repeats)}."
            )
        norm = partial(nn.GroupNorm, groups)
        conv = partial(_conv, StandardisedConv3d if weight_std else nn.Conv3d)
        block = partial(PreActivationBlock, conv=conv, norm=norm)
        finest, deepest = widths[0], widths[-1]
        self.stem = conv(1, finest, 3, 1)
        self.encode = nn.ModuleList()
        for level, (inputs, outputs) in enumerate(zip([finest, *widths], widths, strict=False)):
            more = [block(outputs, outputs, 1) for _ in range(repeats[level] - 1)]
            self.encode.append(nn.Sequential(block(inputs, outputs, 2 if level else 1), *more))
        self.fuse = nn.Sequential(norm(deepest), nn.ReLU(), conv(deepest, deepest, 1, 1))
        self.pool = nn.Sequential(norm(deepest), nn.ReLU())
        # From the level above's width to the next finer one's; the finest keeps its own.
        ways = zip(widths[3::-1], [*widths[2::-1], finest], strict=True)
        self.decode = nn.ModuleList(block(inputs, outputs, 1) for inputs, outputs in ways)
        self.precls = nn.Sequential(norm(finest), nn.ReLU(), nn.Conv3d(finest, head_width, 1))
        self.head = DynamicHead(deepest, channels, tasks, task, head_width)

    def forward(self, x: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Logits (N, channels, Z, Y, X).

        Args:
            x: (N, 1, Z, Y, X).
            tasks: (N,) int64, the task of each image; ``None`` is the network's own for all.
        """
        x = self.stem(x)
        skips = []
        for level in self.encode:
            x = level(x)
            skips.append(x)
        x = self.fuse(x)
        pooled = self.pool(x).mean((2, 3, 4))
        for block, skip in zip(self.decode, skips[-2::-1], strict=True):
            x = block(functional.interpolate(x, scale_factor=2, mode="trilinear") + skip)
        out: Tensor = self.head(self.precls(x), pooled, tasks)
        return out


def _conv(kind: type[nn.Conv3d], inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    return kind(inputs, outputs, kernel, stride, kernel // 2, bias=False)
