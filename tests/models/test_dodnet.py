"""DoDNet against the published counts, its formulas and a grouped convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from imaging.errors import BadParameter
from models.architectures.dodnet import DoDNet, PreActivationBlock, StandardisedConv3d
from models.architectures.dynamic_head import DynamicHead

TINY: dict[str, Any] = {"widths": (4, 4, 8, 8, 8), "groups": 2, "repeats": (1, 1, 1, 1, 1)}


def count(*parts: nn.Module) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


def test_the_papers_counts_part_by_part() -> None:
    network = DoDNet(2)
    assert count(network) == 17_329_528
    assert count(network.head.controller) == 42_768
    assert count(network.stem, network.encode) == 15_377_376
    assert count(network.decode) == 1_842_496
    assert count(DoDNet(2, weight_std=False)) == 17_329_528


def test_sizes_and_widths_of_the_levels() -> None:
    network = DoDNet(2, **TINY).eval()
    seen: list[tuple[int, ...]] = []
    for block in [*network.encode, *network.decode]:
        block.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
    network(torch.zeros(1, 1, 32, 48, 64))
    sizes = [(32 // d, 48 // d, 64 // d) for d in (1, 2, 4, 8, 16, 8, 4, 2, 1)]
    widths = [4, 4, 8, 8, 8, 8, 4, 4, 4]
    assert seen == [(w, *size) for w, size in zip(widths, sizes, strict=True)]


def test_every_convolution_but_the_heads_input_is_standardised() -> None:
    for wanted in (True, False):
        network = DoDNet(2, **TINY, weight_std=wanted)
        plain = [
            name
            for name, m in network.named_modules()
            if isinstance(m, nn.Conv3d) and not isinstance(m, StandardisedConv3d)
        ]
        assert (plain == ["precls.2"]) is wanted


def test_standardised_weights_have_mean_0_and_variance_1() -> None:
    torch.manual_seed(0)
    conv = StandardisedConv3d(3, 4, 3, padding=1, stride=2, bias=False)
    with torch.no_grad():
        conv.weight.mul_(7).add_(2)
    used = conv.standardised().detach().numpy().reshape(4, -1)
    assert np.allclose(used.mean(1), 0, atol=1e-6)
    assert np.allclose(used.var(1, ddof=1), 1, atol=1e-5)
    x = torch.randn(1, 3, 8, 6, 4)
    expected = functional.conv3d(x, conv.standardised(), stride=2, padding=1)
    assert torch.allclose(conv(x), expected)
    assert torch.allclose(conv.exportable()(x), expected)
    assert type(conv.exportable()) is nn.Conv3d


def test_a_block_adds_its_input_unchanged_where_the_shape_stays() -> None:
    def conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
        made = nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        nn.init.zeros_(made.weight)
        return made

    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(2, channels)

    x = torch.randn(1, 4, 4, 4, 4)
    assert torch.equal(PreActivationBlock(4, 4, 1, conv, norm)(x), x)
    halved = PreActivationBlock(4, 4, 2, conv, norm)(x)
    assert halved.shape == (1, 4, 2, 2, 2)
    assert not halved.any()


def by_groups(head: DynamicHead, features: Tensor, made: Tensor) -> Tensor:
    """The same head as a convolution with a group for each image."""
    n, width = features.shape[:2]
    channels = head.layers[-1][0]
    a, b, c, d, e, f = made.split([64, 64, 8 * channels, 8, 8, channels], 1)
    x = features.reshape(1, n * width, *features.shape[2:])
    x = functional.conv3d(x, a.reshape(n * 8, 8, 1, 1, 1), d.flatten(), groups=n).relu()
    x = functional.conv3d(x, b.reshape(n * 8, 8, 1, 1, 1), e.flatten(), groups=n).relu()
    x = functional.conv3d(x, c.reshape(n * channels, 8, 1, 1, 1), f.flatten(), groups=n)
    return x.reshape(n, channels, *features.shape[2:])


@settings(max_examples=20, deadline=None)
@given(tasks=st.lists(st.integers(0, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_the_head_equals_a_grouped_convolution(tasks: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    head = DynamicHead(5, 2, 7)
    n = len(tasks)
    features, pooled = torch.randn(n, 8, 3, 4, 5), torch.randn(n, 5)
    chosen = torch.tensor(tasks)
    one_hot = functional.one_hot(chosen, 7).float()
    made = head.controller(torch.cat([pooled, one_hot], 1))
    assert made.shape == (n, 162)
    assert torch.allclose(head.made(pooled, chosen), made, atol=1e-6)
    expected = by_groups(head, features, made)
    assert torch.allclose(head(features, pooled, chosen), expected, atol=1e-5)


def test_a_mixed_batch_gives_what_each_image_gives_alone() -> None:
    torch.manual_seed(0)
    network = DoDNet(2, **TINY).eval()
    x = torch.randn(3, 1, 32, 32, 32)
    with torch.no_grad():
        together = network(x, torch.tensor([6, 1, 1]))
        for index, task in enumerate((6, 1, 1)):
            alone = network(x[index : index + 1], torch.tensor([task]))
            assert torch.allclose(together[index], alone[0], atol=1e-5)
        assert not torch.allclose(together[0], network(x[:1])[0], atol=1e-3)


def test_asked_for_no_task_it_does_its_own() -> None:
    torch.manual_seed(0)
    network = DoDNet(2, **TINY, task=3).eval()
    x = torch.randn(2, 1, 32, 32, 32)
    assert torch.equal(network(x), network(x, torch.tensor([3, 3])))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (torch.tensor([0, 7]), r"from 0 to 6, not \[0, 7\]"),
        (torch.tensor([-1, 0]), r"from 0 to 6, not \[-1, 0\]"),
        (torch.tensor([0]), r"shape \(2,\).*\(1,\)"),
        (torch.tensor([0.0, 1.0]), "int64.*float32"),
    ],
)
def test_tasks_that_there_are_not_are_refused(tasks: Tensor, message: str) -> None:
    head = DynamicHead(5, 2, 7)
    with pytest.raises(BadParameter, match=message):
        head(torch.zeros(2, 8, 2, 2, 2), torch.zeros(2, 5), tasks)


@pytest.mark.parametrize("task", [-1, 7])
def test_a_network_has_one_of_its_own_tasks(task: int) -> None:
    with pytest.raises(BadParameter, match=f"from 0 to 6, not {task}"):
        DoDNet(2, **TINY, task=task)


@pytest.mark.parametrize(
    "options", [{"widths": (4, 4, 8, 8)}, {"repeats": (1,)}, {"widths": (4, 4, 8, 8, 16)}]
)
def test_levels_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadParameter, match="5 levels, the last two of one width"):
        DoDNet(2, **{**TINY, **options})
