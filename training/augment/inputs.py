"""Changes of a network's input, whatever it was made from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.recipe import Augment


def augment_input(values: Tensor, settings: Augment, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, gamma and noise on a network's input, each by chance (nnU-Net).

    Args:
        values: float32 input of any shape.
        settings: how much of what.
        rng: the only source of randomness.
    """
    changes = (
        (settings.brightness, _brightness),
        (settings.spread, _spread),
        (settings.gamma, _gamma),
    )
    for (low, high), change in changes:
        if (low, high) != (1.0, 1.0) and rng.random() < settings.input_p:
            values = change(values, float(rng.uniform(low, high)))
    if settings.input_noise and rng.random() < settings.input_p:
        noise = torch.from_numpy(rng.standard_normal(tuple(values.shape), dtype=np.float32))
        values = values + noise * float(rng.uniform(0, settings.input_noise))
    return values


def _brightness(values: Tensor, factor: float) -> Tensor:
    return values * factor


def _spread(values: Tensor, factor: float) -> Tensor:
    mean = values.mean()
    return ((values - mean) * factor + mean).clamp(values.min(), values.max())


def _gamma(values: Tensor, exponent: float) -> Tensor:
    low, span = values.min(), values.max() - values.min()
    unit: Tensor = ((values - low) / span.clamp_min(1e-6)) ** exponent
    return unit * span + low
