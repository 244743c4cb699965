"""The KiTS21 paper's network: its readings, deep supervision and the transfer of weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from imaging.errors import BadParameter
from models.architectures.kits21_resunet import ASPP, KiTS21ResUNet, ResidualBlock

TINY: dict[str, Any] = {
    "stem": 8,
    "planes": (4, 8, 8, 8),
    "repeats": (1, 1, 1, 1),
    "decoder": (16, 8, 8, 8),
}


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_the_default_part_by_part() -> None:
    network = KiTS21ResUNet(4)
    assert count(network) == 14_464_228
    # One 1x1x1 branch and three 3x3x3 of 320 to 256 channels, joined from 1,024; with norms.
    assert count(network.aspp) == 320 * 256 * (1 + 3 * 27) + 1024 * 256 + 5 * 512
    assert [len(stage) for stage in network.encode] == [3, 4, 6, 3]
    assert [b.up.out_channels for b in network.decode] == [256, 128, 64, 32]


def test_the_plainest_reading_has_74_million() -> None:
    with torch.device("meta"):
        plain = KiTS21ResUNet(4, planes=(64, 128, 256, 320), expansion=1, kernels=(3, 3, 3))
    assert count(plain) == 74_110_564


def test_a_block_has_no_activation_inside_and_one_at_the_end() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 4, 4, 4)
    for inner in (False, True):
        block = ResidualBlock((4, 2, 2, 4), (1, 3, 1), 1, inner)
        out = x
        for index, (conv, norm) in enumerate(block.convs):
            if inner and index:
                out = torch.where(out > 0, out, 0.01 * out)
            out = norm(functional.conv3d(out, conv.weight, padding=int(index == 1)))
        expected = out + x
        expected = torch.where(expected > 0, expected, 0.01 * expected)
        assert torch.allclose(block(x), expected, atol=1e-5)


def test_the_stride_is_that_of_the_first_wide_kernel_and_of_the_shortcut() -> None:
    for kernels, strides in (((1, 3, 1), [1, 2, 1]), ((3, 3, 3), [2, 1, 1])):
        block = ResidualBlock((4, 2, 2, 8), kernels, 2, inner=False)
        assert [conv[0].stride[0] for conv in block.convs] == strides
        assert block(torch.randn(1, 4, 4, 8, 4)).shape == (1, 8, 2, 4, 2)


def test_the_branches_of_the_aspp_reach_as_far_as_their_rates() -> None:
    aspp = ASPP(2, 2, (1, 2, 4, 6))
    for branch, reach in zip(aspp.branches, (0, 2, 4, 6), strict=True):
        x = torch.zeros(1, 2, 13, 13, 13)
        x[..., 6, 6, 6] = 1
        seen = branch[0](x).abs().sum(1)[0].nonzero()
        assert int((seen - 6).abs().max()) == reach


@pytest.mark.parametrize(("concatenate", "joined"), [(False, 16), (True, 32)])
def test_skips_are_added_or_put_beside(concatenate: bool, joined: int) -> None:
    network = KiTS21ResUNet(3, **TINY, concatenate=concatenate)
    seen: list[Tensor] = []
    network.decode[0].block.register_forward_hook(lambda _m, i, _o: seen.append(i[0]))
    assert network(torch.randn(1, 1, 32, 32, 32)).shape == (1, 3, 32, 32, 32)
    assert seen[0].shape[1] == joined


def test_deep_heads_come_in_training_alone_finest_first() -> None:
    torch.manual_seed(0)
    network = KiTS21ResUNet(3, **TINY, deep=2)
    x = torch.randn(2, 1, 32, 32, 48)
    trained = network(x)
    assert trained.shape == (2, 3, 3, 32, 32, 48)
    assert torch.equal(network.eval()(x), trained[:, 0])
    # A head on 1/2 or 1/4 of the size, brought to full size by repeating, loses nothing there.
    for level, step in ((1, 2), (2, 4)):
        coarse = trained[:, level, :, ::step, ::step, ::step]
        again = functional.interpolate(coarse, scale_factor=step)
        assert torch.equal(again, trained[:, level])
    assert not torch.equal(trained[:, 1, ..., ::4], trained[:, 1, ..., 2::4])


def test_deep_heads_get_gradients() -> None:
    torch.manual_seed(0)
    network = KiTS21ResUNet(3, **TINY, deep=3)
    (network(torch.randn(1, 1, 32, 32, 32)) ** 2).sum().backward()
    for name, parameter in network.deep_heads.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_pretraining_has_a_head_for_each_image_and_its_task() -> None:
    torch.manual_seed(0)
    network = KiTS21ResUNet(2, **TINY, tasks=7, task=1).eval()
    x = torch.randn(2, 1, 32, 32, 32)
    mixed = network(x, torch.tensor([1, 5]))
    assert mixed.shape == (2, 2, 32, 32, 32)
    own = network(x)
    assert torch.allclose(mixed[0], own[0], atol=1e-5)
    assert not torch.allclose(mixed[1], own[1], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planes": (4, 8, 8)}, r"planes .* 4 stages: \(4, 8, 8\)"),
        ({"repeats": (1,) * 5}, "repeats .* 4 stages"),
        ({"decoder": (8,)}, "decoder .* 4 stages"),
        ({"kernels": (1, 2, 1)}, r"three odd sizes, not \(1, 2, 1\)"),
        ({"kernels": (1, 3)}, r"three odd sizes, not \(1, 3\)"),
        ({"deep": 4}, "from 0 to 3, not 4"),
        ({"deep": 1, "tasks": 7}, "tasks 7, deep 1"),
        ({"tasks": -1}, "tasks -1"),
        ({"tasks": 7, "task": 7}, "from 0 to 6, not 7"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        KiTS21ResUNet(4, **{**TINY, **options})


def test_tasks_for_a_network_without_them_are_refused() -> None:
    with pytest.raises(BadParameter, match="no tasks"):
        KiTS21ResUNet(4, **TINY)(torch.zeros(1, 1, 32, 32, 32), torch.tensor([0]))
