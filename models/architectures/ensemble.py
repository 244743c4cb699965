"""Several networks as one: the mean of their probabilities, as nnU-Net joins its folds.

Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image
segmentation" (Nature Methods 2021), averages the softmax of the five folds' networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from imaging.errors import BadParameter

# Means that differ by less count as equal. Where sure networks contradict each other, the mean is a
# tie that float32 would decide, and not in every runtime the same way.
_GRAIN = 2.0**-16


class Ensemble(nn.Module):
    """Logits of the mean probability, so that an ensemble is one network with one manifest.

    Input as its networks take it; output (N, channels, *space): the logarithm of the mean softmax,
    or the logit of the mean sigmoid. The mean is taken over logarithms, in which sure networks
    neither overflow nor round to 0 or 1. It is rounded, for answers that do not hang on the
    runtime, so that an ensemble is nothing to train.

    Args:
        networks: at least one; their outputs have one shape.
        activation: what turns their logits into probabilities, as in the manifest.

    Raises:
        BadParameter: no network, or another activation.
    """

    def __init__(
        self, networks: Sequence[nn.Module], activation: Literal["softmax", "sigmoid"]
    ) -> None:
        super().__init__()
        if not networks:
            raise BadParameter("An ensemble needs at least one network, not 0.")
        if activation not in ("softmax", "sigmoid"):
            raise BadParameter(f"activation must be softmax or sigmoid, not {activation!r}.")
        self.networks = nn.ModuleList(networks)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        # In float32 whatever the networks compute in: sure probabilities differ in their last bits.
        logits = [network(x).float() for network in self.networks]
        if self.activation == "softmax":
            mean = _log_sum([functional.log_softmax(one, 1) for one in logits]) - log(len(logits))
        else:
            # The counts of both means cancel.
            inside = _log_sum([-functional.softplus(-one) for one in logits])
            mean = inside - _log_sum([-functional.softplus(one) for one in logits])
        return (mean / _GRAIN).round() * _GRAIN


def _log_sum(logarithms: Sequence[Tensor]) -> Tensor:
    """The logarithm of a sum from its terms' logarithms.

    Written out, as are the logarithms of the sigmoid: torch exports its own ``logaddexp`` and
    ``logsigmoid`` as plain exponentials and logarithms, which overflow in ONNX Runtime.
    """
    return reduce(
        lambda one, other: torch.maximum(one, other) + functional.softplus(-(one - other).abs()),
        logarithms,
    )
