"""MoNet against the published table and a forward pass written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from imaging.errors import BadParameter
from models.architectures import build
from models.architectures.keras import keras_count
from models.architectures.monet import RDDC, ConvBlock, MoNet

# Channels, size at a 256 input and trainable parameters of every block, in order.
TABLE = {
    "encode0.0": (16, 256, 176),
    "encode0.1": (16, 256, 9_344),
    "encode1.0": (16, 128, 4_128),
    "encode1.1": (32, 128, 4_672),
    "encode1.2": (32, 128, 37_120),
    "bottleneck.0": (32, 64, 16_448),
    "bottleneck.1": (64, 64, 18_560),
    "bottleneck.2": (64, 64, 147_968),
    "up1": (64, 128, 65_664),
    "decode1.0": (32, 128, 27_712),
    "decode1.1": (32, 128, 37_120),
    "up0": (32, 256, 16_448),
    "decode0.0": (16, 256, 6_944),
    "decode0.1": (16, 256, 9_344),
    "head": (1, 256, 18),
}


@pytest.mark.parametrize("outer_residual", [False, True])
def test_the_published_parameter_count(outer_residual: bool) -> None:
    counted = keras_count(MoNet(1, outer_residual=outer_residual))
    assert counted == (401_666, 1_890)
    assert sum(counted) == 403_556


def test_every_block_has_the_tables_shape_and_size() -> None:
    network = MoNet(1).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name in TABLE:
        network.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: shapes.__setitem__(name, tuple(out.shape))
        )
    with torch.no_grad():
        network(torch.zeros(1, 1, 256, 256))
    assert list(shapes) == list(TABLE), "blocks run in the table's order"
    for name, (channels, size, parameters) in TABLE.items():
        block = network.get_submodule(name)
        assert shapes[name] == (1, channels, size, size), name
        assert sum(p.numel() for p in block.parameters()) == parameters, name


def test_the_skips_come_first_in_both_concatenations() -> None:
    network = MoNet(1, filters=2).eval()
    seen: dict[str, Tensor] = {}
    for name in ("encode0", "encode1", "up1", "up0"):
        network.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, out)
        )
    for name in ("decode1", "decode0"):
        network.get_submodule(name).register_forward_hook(
            lambda _m, inputs, _o, name=name: seen.__setitem__(name, inputs[0])
        )
    with torch.no_grad():
        network(torch.randn(1, 1, 16, 16))
    assert torch.equal(seen["decode1"], torch.cat([seen["encode1"], seen["up1"]], 1))
    assert torch.equal(seen["decode0"], torch.cat([seen["encode0"], seen["up0"]], 1))


def _by_hand(block: ConvBlock, x: Tensor, dilation: int) -> Tensor:
    norm = block.norm
    x = functional.conv2d(x, block.conv.weight, padding=dilation, dilation=dilation)
    x = (x - norm.running_mean[:, None, None]) / torch.sqrt(
        norm.running_var[:, None, None] + 1e-3
    ) * norm.weight[:, None, None] + norm.bias[:, None, None]
    return torch.where(x > 0, x, torch.exp(x) - 1)


@pytest.mark.parametrize("outer_residual", [False, True])
def test_rddc_equals_its_formula(outer_residual: bool) -> None:
    torch.manual_seed(1)
    block = RDDC(4, 0.2, outer_residual).eval()
    for conv in block.blocks:
        nn.init.uniform_(conv.norm.running_mean, -1, 1)
        nn.init.uniform_(conv.norm.running_var, 0.01, 1)
        nn.init.uniform_(conv.norm.weight, 0.5, 1.5)
    x = torch.randn(2, 4, 12, 12)
    first = _by_hand(block.blocks[0], x, 4)
    second = _by_hand(block.blocks[1], x + first, 3)
    third = _by_hand(block.blocks[2], second, 2)
    expected = _by_hand(block.blocks[3], second + third, 1)
    expected = x + expected if outer_residual else expected
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_spatial_dropout_follows_the_first_three_blocks_only() -> None:
    torch.manual_seed(0)
    block = RDDC(64, 0.5, outer_residual=False).train()
    made: list[Tensor] = []
    dropped: list[tuple[Tensor, Tensor]] = []
    for conv in block.blocks:
        conv.register_forward_hook(lambda _m, _i, out: made.append(out))
    block.drop.register_forward_hook(lambda _m, i, out: dropped.append((i[0], out)))
    out = block(torch.randn(1, 64, 8, 8))
    assert [id(before) for before, _ in dropped] == [id(m) for m in made[:3]]
    assert out is made[3]
    for _, after in dropped:
        whole = (after == 0).flatten(2).all(2)
        assert 0.2 < whole.float().mean() < 0.8, "whole channels are dropped, at the asked rate"
        assert not torch.any((after == 0).flatten(2).any(2) & ~whole)


def test_dropout_is_a_fifth_and_normalisation_is_keras_default() -> None:
    modules = list(MoNet(1).modules())
    assert {m.p for m in modules if isinstance(m, nn.Dropout2d)} == {0.2}
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    convs = [m for m in modules if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert all(c.bias is None for c in convs)


def test_weights_are_he_uniform() -> None:
    torch.manual_seed(0)
    for name, module in MoNet(1).named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            inputs = module.in_channels * math.prod(module.kernel_size)
            bound = math.sqrt(6 / inputs)
            found = module.weight.detach()
            assert found.abs().max() <= bound, name
            if found.numel() > 1000:
                assert found.abs().max() > 0.98 * bound, name
                assert abs(found.std() / (bound / math.sqrt(3)) - 1) < 0.05, name


def test_the_softmax_variant_has_a_channel_and_norm_for_each_class() -> None:
    network = MoNet(8)
    # Seven more channels, each of 16 weights, scale and shift, and two running statistics.
    assert keras_count(network) == (401_666 + 7 * 18, 1_890 + 7 * 2)
    assert network.eval()(torch.zeros(1, 1, 16, 24)).shape == (1, 8, 16, 24)


@pytest.mark.parametrize("name", ["monet", "unet16"])
def test_a_prior_is_what_fresh_weights_call_foreground(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, 1, filters=4, prior=0.02, momentum=0.1).eval()
    found = torch.sigmoid(network(torch.zeros(1, 1, 32, 32)))
    assert 0.005 < found.mean() < 0.08
    paces = {m.momentum for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert paces == {0.1}
    paper = build(name, 1, filters=4)
    assert {m.momentum for m in paper.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.01}
    with pytest.raises(BadParameter, match="prior must be over 0"):
        build(name, 1, filters=4, prior=1.0)
