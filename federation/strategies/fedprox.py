"""FedProx: a site is held near the round's global model (Li et al., MLSys 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from federation.strategies.strategy import Start, Strategy
from training.objective import Penalty


def _proximal(start: Start) -> Penalty:
    """Half of ``mu`` times the squared distance from the received weights."""
    anchors = {
        name: weight.detach().clone()
        for name, weight in start.network.named_parameters()
        if name in start.shared
    }
    mu = start.options["mu"]

    def penalty(network: nn.Module, images: Tensor, targets: Tensor, logits: Tensor) -> Tensor:
        del images, targets, logits
        weights = dict(network.named_parameters())
        apart = [(weights[name] - anchor).square().sum() for name, anchor in anchors.items()]
        return 0.5 * mu * torch.stack(apart).sum()

    return penalty


FEDPROX = Strategy("fedprox", "Li et al. 2020", options={"mu": 0.01}, penalty=_proximal)
