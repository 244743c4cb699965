"""The residual 3D U-Net of "Transfer learning for KiTS21 challenge".

Yang et al. (2021), section 2.3: an encoder of four stages of residual blocks of three
convolutions, atrous spatial pyramid pooling (ASPP) and a decoder of one residual block a stage.
The network is trained first with DoDNet's dynamic head on partly labelled data sets, then with a
plain convolution on KiTS21.

The paper leaves open the widths, the kernels, the rates of the ASPP, how skips join and whether
there is deep supervision. The defaults take the block counts (3, 4, 6, 3) for ResNet-50's, and so
its 1-3-1 bottleneck, with output widths that end at nnU-Net's 320: 14.5 million parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from imaging.errors import BadParameter
from models.architectures.dynamic_head import DynamicHead

STAGES = 4


class ConvNorm(nn.Sequential):
    """Convolution without bias and instance norm; keeps the size at stride 1."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv3d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
            nn.InstanceNorm3d(outputs, affine=True),
        )


class ResidualBlock(nn.Module):
    """A chain of convolutions with instance norm, the input added, LeakyReLU.

    Where the shape changes, a 1x1x1 convolution and instance norm bring the input there.

    Args:
        widths: channels of the input and of every convolution's output.
        kernels: of the convolutions; the first that is not 1x1x1 has the stride.
        stride: 2 halves the size.
        inner: LeakyReLU between the convolutions, too.
    """

    def __init__(
        self, widths: Sequence[int], kernels: Sequence[int], stride: int, inner: bool
    ) -> None:
        super().__init__()
        strided = next((i for i, kernel in enumerate(kernels) if kernel > 1), 0)
        self.convs = nn.ModuleList(
            ConvNorm(widths[i], widths[i + 1], kernel, stride if i == strided else 1)
            for i, kernel in enumerate(kernels)
        )
        same = stride == 1 and widths[0] == widths[-1]
        self.shortcut = nn.Identity() if same else ConvNorm(widths[0], widths[-1], 1, stride)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for index, conv in enumerate(self.convs):
            out = conv(functional.leaky_relu(out) if index and self.inner else out)
        return functional.leaky_relu(out + self.shortcut(x))


class ASPP(nn.Module):
    """Parallel convolutions of several dilations, joined by a 1x1x1 convolution.

    After Chen et al., DeepLab (2017): a rate of 1 is a 1x1x1 convolution, others are 3x3x3 with
    that dilation; each is followed by instance norm and LeakyReLU.
    """

    def __init__(self, inputs: int, outputs: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvNorm(inputs, outputs, 1 if rate == 1 else 3, dilation=rate) for rate in rates
        )
        self.join = ConvNorm(len(rates) * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [functional.leaky_relu(branch(x)) for branch in self.branches]
        return functional.leaky_relu(self.join(torch.cat(found, 1)))


class UpStep(nn.Module):
    """2x2x2 transposed convolution, a projected skip connection, a block of two convolutions.

    Args:
        inputs: channels from below.
        skipped: channels of the encoder's output.
        outputs: channels of the result.
        concatenate: put the skip beside the tensor from below, instead of adding it.
    """

    def __init__(self, inputs: int, skipped: int, outputs: int, concatenate: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(inputs, outputs, 2, 2, bias=False)
        self.skip = ConvNorm(skipped, outputs, 1)
        self.concatenate = concatenate
        joined = 2 * outputs if concatenate else outputs
        self.block = ResidualBlock((joined, outputs, outputs), (3, 3), 1, inner=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x, skip = self.up(x), functional.leaky_relu(self.skip(skip))
        out: Tensor = self.block(torch.cat([x, skip], 1) if self.concatenate else x + skip)
        return out


class KiTS21ResUNet(nn.Module):
    """The residual U-Net of the KiTS21 transfer paper; logits out.

    Input (N, 1, Z, Y, X) with sides that are multiples of 16; output (N, channels, Z, Y, X), or
    with deep supervision in training mode (N, 1 + deep, channels, Z, Y, X): finest first, the
    coarser ones brought to full size by repeating voxels, as MONAI's DynUNet does.

    Args:
        channels: 4 in the paper: background, kidney, tumour, cyst. Of a task where ``tasks`` is
            set.
        stem: channels of the convolution at full size; the paper leaves it open.
        planes: inner channels of the four stages' blocks; the paper leaves them open.
        expansion: outputs of a stage's blocks, in units of its planes; the paper leaves it open.
        repeats: blocks of each stage; the paper's are one that halves the size and 2, 3, 5, 2.
        kernels: of a block's three convolutions; the paper leaves them open. (3, 3, 3) with
            expansion 1 and planes (64, 128, 256, 320) is the plainest reading, and has 74 million
            parameters.
        inner_activation: LeakyReLU between an encoder block's convolutions, too. The paper has
            none there, the same authors' later code has.
        rates: of the ASPP's branches; the paper leaves them open. At its 8x8x8 voxels the rates
            of DeepLab would mostly see padding.
        decoder: channels of the decoder's stages, coarsest first; the paper leaves them open.
        concatenate: join skips by concatenation instead of addition; the paper leaves it open.
        deep: levels of deep supervision, from the second finest on, 0 to 3; the paper leaves it
            open.
        tasks: number of tasks of DoDNet's dynamic head for pretraining (7 for MOTS); 0 has a
            1x1x1 convolution instead.
        task: which of them the network does when it is asked for none.
        head_width: channels of the dynamic head.

    Raises:
        BadParameter: not four stages, deep heads beyond them or beside a dynamic head.
    """

    def __init__(
        self,
        channels: int,
        stem: int = 32,
        planes: Sequence[int] = (16, 32, 64, 80),
        expansion: int = 4,
        repeats: Sequence[int] = (3, 4, 6, 3),
        kernels: Sequence[int] = (1, 3, 1),
        inner_activation: bool = False,
        rates: Sequence[int] = (1, 2, 4, 6),
        decoder: Sequence[int] = (256, 128, 64, 32),
        concatenate: bool = False,
        deep: int = 0,
        tasks: int = 0,
        task: int = 0,
        head_width: int = 8,
    ) -> None:
        super().__init__()
        _check_stages(planes, repeats, decoder, kernels)
        _check_heads(deep, tasks)
        widths = [stem, *(expansion * width for width in planes)]
        self.stem = ConvNorm(1, stem, 3)
        self.encode = nn.ModuleList()
        for stage, (inner, count) in enumerate(zip(planes, repeats, strict=True)):
            before, after = widths[stage], widths[stage + 1]
            first = ResidualBlock((before, inner, inner, after), kernels, 2, inner_activation)
            more = (
                ResidualBlock((after, inner, inner, after), kernels, 1, inner_activation)
                for _ in range(count - 1)
            )
            self.encode.append(nn.Sequential(first, *more))
        self.aspp = ASPP(widths[-1], decoder[0], rates)
        ways = zip([decoder[0], *decoder], widths[-2::-1], decoder, strict=False)
        self.decode = nn.ModuleList(UpStep(*way, concatenate) for way in ways)
        self.tasks = tasks
        self.head: nn.Module
        if tasks:
            self.precls = nn.Conv3d(decoder[-1], head_width, 1)
            self.head = DynamicHead(decoder[0], channels, tasks, task, head_width)
        else:
            self.head = nn.Conv3d(decoder[-1], channels, 1)
        self.deep_heads = nn.ModuleList(
            nn.Conv3d(width, channels, 1) for width in decoder[-2::-1][:deep]
        )

    def forward(self, x: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Logits, of the shape that the class's text names.

        Args:
            x: (N, 1, Z, Y, X).
            tasks: (N,) int64, the task of each image, where the network has a dynamic head;
                ``None`` is its own for all.

        Raises:
            BadParameter: tasks for a network without a dynamic head, or none that it has.
        """
        x = functional.leaky_relu(self.stem(x))
        skips = []
        for stage in self.encode:
            skips.append(x)
            x = stage(x)
        x = coarsest = self.aspp(x)
        levels = []
        for step, skip in zip(self.decode, skips[::-1], strict=True):
            x = step(x, skip)
            levels.append(x)
        out = self._logits(x, coarsest, tasks)
        if not (self.training and len(self.deep_heads)):
            return out
        coarser = [head(y) for head, y in zip(self.deep_heads, levels[-2::-1], strict=False)]
        return torch.stack([out, *(functional.interpolate(y, out.shape[2:]) for y in coarser)], 1)

    def _logits(self, x: Tensor, coarsest: Tensor, tasks: Tensor | None) -> Tensor:
        if not self.tasks and tasks is not None:
            raise BadParameter(
                "This network has no tasks; build it with tasks=7, say, or ask none."
            )
        out: Tensor = (
            self.head(self.precls(x), coarsest.mean((2, 3, 4)), tasks)
            if self.tasks
            else self.head(x)
        )
        return out


def _check_stages(
    planes: Sequence[int], repeats: Sequence[int], decoder: Sequence[int], kernels: Sequence[int]
) -> None:
    for what, value in (("planes", planes), ("repeats", repeats), ("decoder", decoder)):
        if len(value) != STAGES:
            raise BadParameter(f"{what} must have one value for each of {STAGES} stages: {value}.")
    if len(kernels) != 3 or any(kernel % 2 == 0 for kernel in kernels):
        raise BadParameter(f"kernels must be three odd sizes, not {tuple(kernels)}.")


def _check_heads(deep: int, tasks: int) -> None:
    if not 0 <= deep < STAGES:
        raise BadParameter(f"deep must be from 0 to {STAGES - 1}, not {deep}.")
    if tasks < 0 or (tasks and deep):
        raise BadParameter(
            f"tasks must not be negative, nor come with deep heads: tasks {tasks}, deep {deep}."
        )
