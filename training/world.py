"""The processes that share a training, as torchrun starts them."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """This process among those that share a training.

    Attributes:
        rank: from 0; rank 0 alone writes files.
        size: how many there are.
        local: this one's place on its machine, which is its GPU's number.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over all processes."""
        if self.size == 1:
            return module
        on_gpu = next(module.parameters()).is_cuda
        return DistributedDataParallel(module, device_ids=[self.local] if on_gpu else None)

    def wait(self) -> None:
        """Until every process is here: files that rank 0 wrote before are there for all."""
        if self.size > 1:
            distributed.barrier()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """A scalar's mean over all processes, the same in each."""
        if self.size > 1:
            value = value.detach().clone()
            distributed.all_reduce(value)
            value = value / self.size
        return value


def processes() -> int:
    """How many processes torchrun started for this training; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(device: torch.device) -> World:
    """The world that torchrun's environment describes; a process by itself where there is none."""
    size = processes()
    if size == 1:
        return World()
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)
    return World(distributed.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
