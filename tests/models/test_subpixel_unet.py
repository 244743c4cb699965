"""Voxels traded for channels and back: none lost, none moved."""

from __future__ import annotations

import pytest
import torch

from imaging.errors import BadParameter
from models.architectures.subpixel_unet import SubpixelUNet, blocks_to_space, space_to_blocks


def test_what_goes_in_comes_back() -> None:
    x = torch.randn(2, 3, 4, 6, 8)
    assert torch.equal(blocks_to_space(space_to_blocks(x)), x)


def test_a_block_is_eight_neighbours_of_one_channel() -> None:
    x = torch.arange(2 * 64).reshape(1, 2, 4, 4, 4)
    blocks = space_to_blocks(x)
    assert blocks.shape == (1, 16, 2, 2, 2)
    assert torch.equal(blocks[0, :8, 1, 0, 1], x[0, 0, 2:4, 0:2, 2:4].flatten())
    assert torch.equal(blocks[0, 8:, 0, 1, 1], x[0, 1, 0:2, 2:4, 2:4].flatten())


def test_a_head_row_belongs_to_one_output_channel() -> None:
    """What averages a structure's rows apart finds all eight of them."""
    network = SubpixelUNet(3, filters=[4, 8, 8]).eval()
    with torch.no_grad():
        rows = network.network.output_block.conv.conv
        rows.weight.zero_()
        rows.bias.zero_()
        rows.bias[8:16] = 1.0
        found = network(torch.randn(1, 1, 16, 16, 16))
    assert torch.equal(found.amax((0, 2, 3, 4)), torch.tensor([0.0, 1.0, 0.0]))


def test_the_voxels_of_a_block_begin_alike() -> None:
    with torch.no_grad():
        found = space_to_blocks(
            SubpixelUNet(3, filters=[4, 8, 8]).eval()(torch.randn(1, 1, *[16] * 3))
        )
    blocks = found.reshape(3, 8, 8, 8, 8)
    assert torch.equal(blocks, blocks[:, :1].expand_as(blocks))
    assert blocks.std((2, 3, 4)).min() > 0


@pytest.mark.parametrize("levels", [2, 5])
def test_other_numbers_of_levels_are_refused(levels: int) -> None:
    with pytest.raises(BadParameter, match=f"3 or 4 levels, not {levels}"):
        SubpixelUNet(2, filters=[4] * levels)
