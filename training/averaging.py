"""The mean of a network's weights over many steps, which generalises better than any of them.

Izmailov et al., Averaging weights leads to wider optima and better generalization, UAI 2018;
here over every step, as Cha et al. (SWAD, NeurIPS 2021) do it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RunningMean:
    """The mean of a network's weights so far, tensor by tensor; whole numbers are left out.

    Attributes:
        count: how many were taken in.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, network: nn.Module) -> None:
        """Take in a network's weights as they are now."""
        self.count += 1
        for name, value in _tensors(network).items():
            if name in self._mean:
                # What was saved comes back on the CPU.
                mean = self._mean[name].to(value.device)
                self._mean[name] = mean.lerp_(value, 1 / self.count)
            else:
                self._mean[name] = value.clone()

    @torch.no_grad()
    def give(self, network: nn.Module) -> None:
        """Put the mean into the network."""
        for name, value in _tensors(network).items():
            value.copy_(self._mean[name])

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on; its tensors are the live ones."""
        return {"count": self.count, "mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.count = state["count"]
        self._mean = {name: value.clone() for name, value in state["mean"].items()}


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every tensor once, though a network may have it under several names."""
    found = dict([*network.named_parameters(), *network.named_buffers()])
    return {name: value.detach() for name, value in found.items() if value.is_floating_point()}
