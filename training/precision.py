"""In which numbers a network computes: float32, or bfloat16 where that is native and right."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from imaging.errors import BadParameter
from training.samples import Batch


def use_bf16(precision: str, device: torch.device, objective: nn.Module, batch: Batch) -> bool:
    """Whether to train under bfloat16 autocast.

    The weight gradient of a 3D convolution over a depth of two voxels is wrong in bfloat16 on
    CPUs (torch 2.13: memory that was never written, measured on every other try). A network that
    has one, which small patches make, trains in float32 there.

    Args:
        precision: ``auto``, ``fp32`` or ``bf16``.
        device: of the training.
        objective: network and loss.
        batch: one that it will see.

    Raises:
        BadParameter: another precision, or bf16 where it would be wrong.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise BadParameter(f"precision must be auto, fp32 or bf16, not {precision!r}.")
    if precision == "fp32":
        return False
    if device.type == "cuda":
        return precision == "bf16" or bool(torch.cuda.is_bf16_supported())
    if precision == "auto" and not torch.cpu._is_avx512_bf16_supported():
        return False
    wrong = _has_depth_of_two(objective, batch)
    if wrong and precision == "bf16":
        raise BadParameter(
            "A convolution of this network sees two slices, which CPUs get wrong in bf16; "
            "use --precision fp32 or a deeper patch."
        )
    return not wrong


def _has_depth_of_two(objective: nn.Module, batch: Batch) -> bool:
    found = []

    def see(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(2 in (inputs[0].shape[2], output.shape[2]))

    # A copy: running statistics must not see a batch twice.
    tried: Any = copy.deepcopy(objective).train()
    for module in tried.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(see)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        tried(batch.images[:1], batch.targets[:1], batch.folds[:1], batch.tasks[:1])
    return any(found)
