from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.blocks import block_means, block_sizes
from imaging.geometry import Geometry
from tests.imaging.grids import CANONICAL

SHAPES = st.tuples(*[st.integers(1, 9)] * 3)
BLOCKS = st.tuples(*[st.integers(1, 4)] * 3)


def plain_means(array: np.ndarray, blocks: tuple[int, int, int]) -> np.ndarray:
    """Block by block in double precision, after repeating the edges."""
    pad = [(0, -n % b) for n, b in zip(array.shape, blocks, strict=True)]
    values = np.pad(array.astype(np.float64), pad, mode="edge")
    for axis, block in enumerate(blocks):
        shape = list(values.shape)
        shape[axis : axis + 1] = [shape[axis] // block, block]
        values = values.reshape(shape).mean(axis + 1)
    return values


@given(SHAPES, BLOCKS, st.sampled_from([np.int16, np.float32]), st.booleans(), st.integers(0, 99))
def test_means_are_those_of_the_blocks(shape, blocks, dtype, flipped: bool, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-32768, 32767, shape, endpoint=True)
    array = values.astype(dtype)
    if flipped:
        # As a CT that was reordered without copying: transposed, an axis running backwards.
        array = array.transpose(2, 0, 1)[::-1]
    geometry = Geometry(array.shape, (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), CANONICAL)
    means, grid = block_means(array, geometry, blocks)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, plain_means(array, blocks), rtol=1e-6, atol=1e-3)
    assert grid.shape == means.shape
    assert grid.spacing == tuple(s * b for s, b in zip((1.0, 2.0, 3.0), blocks, strict=True))
    # The first block's middle, in voxels of the finer grid.
    np.testing.assert_allclose(
        geometry.to_index(grid.to_world((0, 0, 0))), (np.array(blocks) - 1) / 2
    )


@pytest.mark.parametrize("value", [-32768, 32767])
def test_sums_of_the_largest_values_do_not_overflow(value: int) -> None:
    array = np.full((80, 80, 80), value, np.int16)
    geometry = Geometry(array.shape, (1, 1, 1), (0, 0, 0), CANONICAL)
    for block in (40, 80):
        means, _ = block_means(array, geometry, (block, block, block))
        assert (means == value).all()


def test_blocks_are_what_fits_into_a_step() -> None:
    source = Geometry((40, 300, 300), (1.6, 0.74, 0.74), (0, 0, 0), CANONICAL)
    grid = Geometry((20, 80, 80), (2.5, 2.5, 2.5), (0, 0, 0), CANONICAL)
    assert block_sizes(source, grid) == (1, 3, 3)
    assert block_sizes(grid, source) == (1, 1, 1)
