"""What Keras takes for granted and torch does otherwise: batch norm, first weights, counting."""

from __future__ import annotations

import math

from torch import nn

from imaging.errors import BadParameter

# Keras defaults: epsilon 1e-3, momentum 0.99 (torch counts the other way round).
EPSILON, MOMENTUM = 1e-3, 0.01


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm over (N, channels, Y, X) with the constants of Keras."""
    return nn.BatchNorm2d(channels, EPSILON, MOMENTUM)


def he_uniform(module: nn.Module) -> None:
    """Draw a 2D convolution's weights from U(-l, l), l = sqrt(6 / inputs); its bias is 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        _without_bias(module)


def glorot_uniform(module: nn.Module) -> None:
    """Draw a 2D convolution's weights from U(-l, l), l = sqrt(6 / (inputs + outputs)); bias 0.

    This is what a Keras layer does that asks for nothing else.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        _without_bias(module)


def keep_pace(network: nn.Module, momentum: float) -> None:
    """Set how much of each batch goes into the running statistics of every batch norm."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum


def start_at(head: nn.Conv2d | nn.BatchNorm2d, prior: float | None) -> None:
    """Set a head's bias so that fresh weights call this part of all pixels foreground.

    Raises:
        BadParameter: a prior that is no part.
    """
    if prior is None:
        return
    if not 0 < prior < 1:
        raise BadParameter(f"prior must be over 0 and under 1, not {prior}.")
    assert head.bias is not None
    nn.init.constant_(head.bias, math.log(prior / (1 - prior)))


def keras_count(network: nn.Module) -> tuple[int, int]:
    """(trainable, non-trainable) as Keras counts: parameters, batch norm's running statistics."""
    trainable = sum(p.numel() for p in network.parameters())
    running = sum(b.numel() for n, b in network.named_buffers() if "num_batches" not in n)
    return trainable, running


def _without_bias(module: nn.Conv2d | nn.ConvTranspose2d) -> None:
    if module.bias is not None:
        nn.init.zeros_(module.bias)
