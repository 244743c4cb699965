from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tiling import tile, weights

axes = st.tuples(
    st.integers(1, 200),  # grid
    st.integers(1, 12),  # patch, in divisors
    st.sampled_from([1, 2, 8]),  # divisor
)


@given(axes, axes, axes, st.floats(0, 1, exclude_max=True))
def test_patches_cover_the_grid_and_overlap(z, y, x, overlap: float) -> None:
    shape, patches, divisor = (tuple(v) for v in zip(z, y, x, strict=True))
    patch = tuple(p * d for p, d in zip(patches, divisor, strict=True))
    tiling = tile(shape, patch, divisor, overlap)
    assert tiling.count == math.prod(map(len, tiling.starts))
    for n, p, d, size, padded, starts in zip(
        shape, patch, divisor, tiling.patch, tiling.padded, tiling.starts, strict=True
    ):
        assert size % d == 0
        assert size <= p
        assert size - d < n
        assert padded == max(n, size)
        # From the first voxel to the last, in order, without a gap.
        assert starts[0] == 0
        assert starts[-1] + size == padded
        steps = np.diff(starts)
        assert (steps > 0).all()
        # Neighbours share what was asked, but always move on.
        assert (steps <= max(1, size * (1 - overlap) + 1e-9)).all()
        if n <= p:
            assert starts == (0,)


def test_no_more_patches_than_needed() -> None:
    assert tile((64, 64, 64), (32, 32, 32), (8, 8, 8), 0.0).starts == ((0, 32),) * 3
    assert tile((64, 64, 64), (32, 32, 32), (8, 8, 8), 0.5).starts == ((0, 16, 32),) * 3
    assert tile((65, 1, 33), (32, 32, 32), (8, 8, 8), 0.0).starts == ((0, 20, 41), (0,), (0, 9))


def test_no_larger_patches_than_so_many_of_them_must_be() -> None:
    tiling = tile((200, 96, 97), (192, 96, 96), (16, 16, 16), 0.25)
    assert tiling.patch == (128, 96, 64)
    assert [len(starts) for starts in tiling.starts] == [2, 1, 2]


def test_a_small_grid_is_one_patch_of_its_own_size() -> None:
    tiling = tile((5, 20, 96), (96, 96, 96), (8, 8, 8), 0.25)
    assert tiling.patch == tiling.padded == (8, 24, 96)
    assert tiling.count == 1


@given(st.tuples(*[st.integers(1, 40)] * 3))
def test_weights_are_positive_symmetric_and_greatest_inside(patch) -> None:
    found = weights(patch)
    assert found.shape == patch
    assert found.dtype == np.float32
    assert (found > 0).all()
    assert found.max() <= 1
    np.testing.assert_array_equal(found, found[::-1, ::-1, ::-1])
    assert found[tuple(n // 2 for n in patch)] == found.max()


@pytest.mark.parametrize("n", [8, 96, 160])
def test_weights_fall_by_a_gaussian_of_an_eighth_of_the_patch(n: int) -> None:
    line = weights((1, 1, n))[0, 0]
    away = n // 8
    expected = math.exp(-0.5 * ((away + 0.5) / (n / 8)) ** 2)
    assert line[n // 2 + away] == pytest.approx(expected, rel=1e-5)
    assert 1e-3 <= line[0] < 3e-3
