"""The 2D U-Nets against the published counts and blocks written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.architectures.keras import keras_count
from models.architectures.unet2d import AttentionGate, ConvBlock, UNet2d


@pytest.mark.parametrize(
    ("filters", "attention", "total"),
    [(64, False, 31_054_145), (16, False, 1_946_705), (64, True, 31_753_349)],
)
def test_the_papers_counts(filters: int, attention: bool, total: int) -> None:
    assert sum(keras_count(UNet2d(1, filters, attention=attention))) == total


def test_relu_comes_before_batch_norm() -> None:
    block = ConvBlock(1, 2).eval()
    nn.init.constant_(block.conv0.weight, 0)
    nn.init.constant_(block.conv0.bias, -3)
    nn.init.constant_(block.norm0.bias, -1)
    seen: list[Tensor] = []
    block.norm0.register_forward_hook(lambda _m, _i, out: seen.append(out))
    block(torch.randn(1, 1, 8, 8))
    # ReLU makes 0 of -3 and batch norm -1 of that; the other way round it would be 0.
    assert torch.equal(seen[0], torch.full((1, 2, 8, 8), -1.0))


def test_an_attention_gate_scales_the_skip_pixel_by_pixel() -> None:
    gate = AttentionGate(2)
    for conv, weight in ((gate.skip, 1.0), (gate.below, 2.0), (gate.join, 0.5)):
        nn.init.constant_(conv.weight, weight)
        nn.init.constant_(conv.bias, 0.25)
    skip = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    below = torch.tensor([0.5, -1.0]).reshape(1, 2, 1, 1)
    # Both channels: (1 + 2 + 0.25) + (2 * -0.5 + 0.25) = 2.5; joined 0.5 * (2.5 + 2.5) + 0.25.
    factor = 1 / (1 + math.exp(-2.75))
    assert torch.allclose(gate(skip, below), factor * skip)
    # A sum below zero is cut off: sigmoid(0.25) is left.
    factor = 1 / (1 + math.exp(-0.25))
    assert torch.allclose(gate(-9 * skip, below), factor * -9 * skip)


def test_a_step_up_puts_the_skip_behind_what_comes_from_below() -> None:
    network = UNet2d(1, filters=2, attention=True).eval()
    seen: dict[str, Tensor] = {}
    step = network.decode[-1]
    for name in ("up", "gate"):
        step.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, out)
        )
    step.block.register_forward_hook(lambda _m, i, _o: seen.__setitem__("joined", i[0]))
    network(torch.randn(1, 1, 32, 32))
    assert torch.equal(seen["joined"], torch.cat([seen["up"], seen["gate"]], 1))


def test_dropout_is_in_the_encoder_and_the_bottleneck_alone() -> None:
    network = UNet2d(1, filters=2)
    assert [block.drop.p for block in network.encode] == [0.3] * 5
    assert [step.block.drop.p for step in network.decode] == [0.0] * 4


def test_first_weights_are_those_of_keras() -> None:
    torch.manual_seed(0)
    network = UNet2d(1, filters=16)
    conv = network.encode[2].conv1
    _check_uniform(conv.weight, math.sqrt(6 / (64 * 9)))
    up = network.decode[0].up
    _check_uniform(up.weight, math.sqrt(6 / (4 * (256 + 128))))
    assert all(not bias.any() for bias in (conv.bias, up.bias, network.head.bias))


def _check_uniform(weight: Tensor, bound: float) -> None:
    found = weight.detach()
    assert 0.98 * bound < found.abs().max() <= bound
    assert abs(found.std() / (bound / math.sqrt(3)) - 1) < 0.05
