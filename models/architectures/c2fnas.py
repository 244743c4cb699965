"""A C2FNAS-like network: the cells of a searched 3D network, with an optional autoencoder branch.

Wang et al., "Automated pancreas segmentation using multi-institutional collaborative deep
learning" (2020) take the network of Yu et al., "C2FNAS" (CVPR 2020), and add a variational
autoencoder at its encoder's endpoint. No official code of either is public. The cells here follow
a re-implementation with the same input and outputs; whether its 15,313,856 parameters are
those of the paper's network cannot be checked. Hence "C2FNAS-like".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from imaging.errors import BadParameter

LATENT = 128


class Reconstruction(NamedTuple):
    """What the autoencoder makes of an input.

    Attributes:
        image: (N, 1, Z, Y, X), in the input's units.
        mean, log_variance: (N, 128) of the latent normal distribution.
    """

    image: Tensor
    mean: Tensor
    log_variance: Tensor


def _conv(
    inputs: int, outputs: int, kernel: int | tuple[int, int, int], stride: int = 1
) -> nn.Conv3d:
    """Without bias; keeps the size at stride 1."""
    z, y, x = (kernel,) * 3 if isinstance(kernel, int) else kernel
    return nn.Conv3d(inputs, outputs, (z, y, x), stride, (z // 2, y // 2, x // 2), bias=False)


def _norm(channels: int) -> nn.InstanceNorm3d:
    return nn.InstanceNorm3d(channels, affine=True)


def _operation(kind: str, channels: int) -> nn.Module:
    """``2D`` within the slice, ``P3D`` that and then across slices, ``3D`` both at once."""
    if kind == "3D":
        return _conv(channels, channels, 3)
    flat = _conv(channels, channels, (1, 3, 3))
    return flat if kind == "2D" else nn.Sequential(flat, _conv(channels, channels, (3, 1, 1)))


class Cell(nn.Module):
    """1x1x1 convolution of each input, their sum, ReLU, an operation, instance norm, 1x1x1.

    Args:
        kind: ``2D``, ``P3D`` or ``3D``.
        channels: of the input and the output.
        second: brings another input to this one's shape; the cell then takes two.
    """

    def __init__(self, kind: str, channels: int, second: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels, 1), second
        self.operation = nn.Sequential(nn.ReLU(), _operation(kind, channels), _norm(channels))
        self.last = _conv(channels, channels, 1)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = self.first(x)
        if self.second is not None:
            x = x + self.second(other)
        out: Tensor = self.last(self.operation(x))
        return out


def _up(channels: int) -> nn.Module:
    """To twice the size and half the channels."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="trilinear"),
        nn.ReLU(),
        _conv(channels, channels // 2, 1),
        nn.InstanceNorm3d(channels // 2),
    )


def _down(channels: int) -> nn.Module:
    """To half the size and twice the channels."""
    return nn.Sequential(nn.ReLU(), _conv(channels, 2 * channels, 3, 2), _norm(2 * channels))


class Encoder(nn.Module):
    """Six cells on four levels, from 1/2 to 1/16 of the input's size.

    Gives the outputs of the levels, finest first: 2, 4, 8 and 16 times ``filters`` channels.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        a, b, c, d = (filters * 2**level for level in range(1, 5))
        self.stem = nn.Sequential(
            _conv(1, filters, 3), _norm(filters), nn.ReLU(), _conv(filters, a, 3, 2), _norm(a)
        )
        self.level1 = nn.ModuleList([Cell("2D", a), Cell("P3D", a, _conv(a, a, 1))])
        self.level2 = nn.Sequential(_down(a), Cell("3D", b), Cell("3D", b))
        self.level3 = nn.Sequential(_down(b), Cell("3D", c))
        self.level4 = nn.Sequential(_down(c), Cell("2D", d))

    def forward(self, x: Tensor) -> list[Tensor]:
        stem = self.stem(x)
        outputs = [self.level1[1](self.level1[0](stem), stem)]
        for level in (self.level2, self.level3, self.level4):
            outputs.append(level(outputs[-1]))
        return outputs


class Decoder(nn.Module):
    """Six cells back to 1/2 of the input's size, and the logits at full size."""

    def __init__(self, filters: int, channels: int) -> None:
        super().__init__()
        a, b, c, d = (filters * 2**level for level in range(1, 5))
        self.level3 = nn.ModuleList([Cell("3D", c, _up(d)), Cell("3D", c)])
        self.level2 = Cell("P3D", b, _up(c))
        self.level1 = nn.ModuleList(
            [Cell("3D", a, _up(b)), Cell("2D", a), Cell("3D", a, _conv(a, a, 1))]
        )
        self.head = nn.Sequential(
            nn.ReLU(),
            _conv(2 * a, a, 3),
            _norm(a),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="trilinear"),
            _conv(a, filters, 3),
            _norm(filters),
            nn.ReLU(),
            _conv(filters, channels, 1),
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        fine, middle, coarse, endpoint = levels
        x = self.level3[1](self.level3[0](coarse, endpoint))
        first = self.level1[0](fine, self.level2(middle, x))
        second = self.level1[1](first)
        third = self.level1[2](second, first)
        out: Tensor = self.head(torch.cat([second, third], 1))
        return out


class ResidualBlock(nn.Module):
    """Instance norm, ReLU, 3x3x3 convolution, twice, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        one, two = ((_norm(channels), nn.ReLU(), _conv(channels, channels, 3)) for _ in range(2))
        self.body = nn.Sequential(*one, *two)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class AutoencoderBranch(nn.Module):
    """From the encoder's endpoint to a latent normal distribution, and back to the image.

    The paper gives the dense layers, the trilinear upsampling and the residual blocks. The widths
    (half of the encoder's) and the norm are guesses. The second dense layer gives the logarithm of
    the variance, which cannot leave its range, where the paper's gives the standard deviation.
    Nothing is shared with the segmentation's decoder.

    Args:
        filters: as of the encoder.
        patch: size of the network's input (Z, Y, X).
        reduce: halve the endpoint's size, to 16 channels, before the dense layers.
    """

    def __init__(self, filters: int, patch: Sequence[int], reduce: bool) -> None:
        super().__init__()
        endpoint = 16 * filters
        kept, factor = (16, 32) if reduce else (endpoint, 16)
        self.shape = (kept, *(side // factor for side in patch))
        features = math.prod(self.shape)
        self.reduce = (
            nn.Sequential(_norm(endpoint), nn.ReLU(), _conv(endpoint, kept, 3, 2))
            if reduce
            else nn.Identity()
        )
        self.mean = nn.Linear(features, LATENT)
        self.log_variance = nn.Linear(features, LATENT)
        self.recover = nn.Linear(LATENT, features)
        widths = [endpoint // 2**halved for halved in range(1, 6)]
        steps: list[nn.Module] = [nn.Upsample(scale_factor=2, mode="trilinear")] if reduce else []
        for level, (inputs, outputs) in enumerate(zip([kept, *widths], widths, strict=False)):
            steps.append(_conv(inputs, outputs, 1))
            if level:
                steps.append(nn.Upsample(scale_factor=2, mode="trilinear"))
            steps.append(ResidualBlock(outputs))
        self.decode = nn.Sequential(*steps, _norm(widths[-1]), nn.ReLU())
        self.image = nn.Conv3d(widths[-1], 1, 1)

    def forward(self, endpoint: Tensor) -> Reconstruction:
        flat = self.reduce(endpoint).flatten(1)
        mean, log_variance = self.mean(flat), self.log_variance(flat)
        latent = mean
        if self.training:
            latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        recovered = functional.relu(self.recover(latent)).reshape(-1, *self.shape)
        return Reconstruction(self.image(self.decode(recovered)), mean, log_variance)


class C2FNAS(nn.Module):
    """The C2FNAS-like network; logits out.

    Input (N, 1, Z, Y, X) with sides that are multiples of 16; output (N, channels, Z, Y, X).

    Args:
        channels: 3 in the paper: background, pancreas, tumour.
        filters: of the stem, doubled on each level below.
        vae: add the paper's autoencoder branch, which regularises the encoder in training. It
            takes no part in ``forward``, nor in an export.
        patch: size (Z, Y, X) of the inputs of :meth:`forward_vae`; the branch's dense layers
            are made for it.
        vae_reduce: shrink the endpoint before the branch's dense layers, as Myronenko (2018) did,
            whom the paper follows. ``False`` flattens it whole, which the text says literally
            and which makes the branch three times as large as the network. Which of both the
            authors did is open.

    Raises:
        BadParameter: with ``vae``, a patch that the branch cannot bring back to its size.
    """

    def __init__(
        self,
        channels: int,
        filters: int = 32,
        vae: bool = False,
        patch: Sequence[int] = (96, 96, 96),
        vae_reduce: bool = True,
    ) -> None:
        super().__init__()
        factor = 32 if vae_reduce else 16
        if vae and (len(patch) != 3 or any(side < factor or side % factor for side in patch)):
            raise BadParameter(
                f"patch must be three multiples of {factor} for this autoencoder, "
                f"not {tuple(patch)}."
            )
        self.patch = tuple(patch)
        self.encoder = Encoder(filters)
        self.decoder = Decoder(filters, channels)
        self.vae = AutoencoderBranch(filters, patch, vae_reduce) if vae else None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x))
        return out

    def forward_vae(self, x: Tensor) -> tuple[Tensor, Reconstruction]:
        """Logits (N, channels, Z, Y, X), and the input as the autoencoder reconstructs it.

        In training the latent vector is drawn with torch's generator, mean + sigma * noise; in
        evaluation it is the mean.

        Raises:
            BadParameter: there is no autoencoder, or the input is not of its patch's size.
        """
        if self.vae is None:
            raise BadParameter("This network has no autoencoder; build it with vae=True.")
        if tuple(x.shape[2:]) != self.patch:
            raise BadParameter(
                f"The autoencoder was built for inputs of {self.patch}, not {tuple(x.shape[2:])}; "
                "crop to that size or build it for yours."
            )
        levels = self.encoder(x)
        return self.decoder(levels), self.vae(levels[-1])
