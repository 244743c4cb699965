"""What Keras takes for granted and torch does otherwise: batch norm, first weights, counting."""

from __future__ import annotations

from torch import nn

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


def keras_count(network: nn.Module) -> tuple[int, int]:
    """(trainable, non-trainable) as Keras counts: parameters, batch norm's running statistics."""
    trainable = sum(p.numel() for p in network.parameters())
    running = sum(b.numel() for n, b in network.named_buffers() if "num_batches" not in n)
    return trainable, running


def _without_bias(module: nn.Conv2d | nn.ConvTranspose2d) -> None:
    if module.bias is not None:
        nn.init.zeros_(module.bias)
