"""SegViz's network: the published counts of its trunk and its head."""

from __future__ import annotations

import pytest
from torch import nn

from imaging.errors import BadParameter
from models.architectures.segviz_unet import is_head, segviz_unet


def test_trunk_and_head_have_the_published_counts() -> None:
    parameters = dict(segviz_unet(2).named_parameters())
    sizes = {name: p.numel() for name, p in parameters.items()}
    head = [name for name in sizes if is_head(name)]
    assert sum(sizes.values()) == 4_808_917
    assert len(head) == 7
    assert sum(sizes[name] for name in head) == 1_845
    norms = [name for name in sizes if ".N." in name]
    assert len(norms) == 34
    assert sum(sizes[name] for name in norms) == 2_436
    shared = [name for name in sizes if name not in {*head, *norms}]
    assert len(shared) == 58
    assert sum(sizes[name] for name in shared) == 4_804_640


def test_the_head_ends_in_the_logits_and_starts_with_the_last_step_up() -> None:
    network = segviz_unet(5)
    head = [m for name, m in network.named_modules() if is_head(f"{name}.")]
    convs = [m for m in head if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    assert [(type(c), c.in_channels, c.out_channels) for c in convs] == [
        (nn.ConvTranspose3d, 32, 5),
        (nn.Conv3d, 5, 5),
    ]


def test_the_head_is_told_from_names_that_only_look_alike() -> None:
    assert is_head("model.2.0.conv.weight")
    for name in ("model.1.submodule.2.0.conv.weight", "model.20.weight", "model.0.conv.weight"):
        assert not is_head(name)


def test_another_depth_is_refused() -> None:
    with pytest.raises(BadParameter, match=r"5 levels, not 4; filters are \(4, 4, 4, 4\)"):
        segviz_unet(2, (4, 4, 4, 4))
