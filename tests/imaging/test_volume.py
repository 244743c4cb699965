from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.errors import BadShape
from imaging.geometry import Geometry
from imaging.volume import Volume, from_canonical, to_canonical
from tests.imaging.grids import CANONICAL, STORAGE_ORDERS, geometries, stored_as


def numbered(geometry: Geometry) -> Volume:
    """Every voxel with a value of its own."""
    return Volume(np.arange(np.prod(geometry.shape)).reshape(geometry.shape), geometry, ("note",))


@given(geometries(), st.data())
def test_canonical_keeps_a_marker_where_it_is(geometry: Geometry, data: st.DataObject) -> None:
    volume = numbered(geometry)
    index = tuple(data.draw(st.integers(0, n - 1)) for n in geometry.shape)
    canonical = to_canonical(volume)
    there = np.argwhere(canonical.array == volume.array[index])
    assert len(there) == 1
    np.testing.assert_allclose(
        canonical.geometry.to_world(there[0]), geometry.to_world(index), atol=1e-8
    )
    assert canonical.warnings == ("note",)
    assert np.shares_memory(canonical.array, volume.array)


@given(geometries())
def test_from_canonical_undoes_to_canonical(geometry: Geometry) -> None:
    volume = numbered(geometry)
    back = from_canonical(to_canonical(volume), geometry)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.geometry is geometry


@pytest.mark.parametrize("order", STORAGE_ORDERS)
def test_every_storage_order_has_one_canonical_form(order) -> None:
    volume = numbered(Geometry((3, 4, 5), (2.5, 0.7, 0.8), (-31.7, 12.3, 101.1), CANONICAL))
    canonical = to_canonical(stored_as(volume, order))
    np.testing.assert_array_equal(canonical.array, volume.array)
    assert canonical.geometry.close_to(volume.geometry, 1e-9)


def test_array_and_grid_must_have_one_shape() -> None:
    grid = Geometry((3, 4, 5), (1, 1, 1), (0, 0, 0), CANONICAL)
    with pytest.raises(BadShape, match=r"\(5, 4, 3\)"):
        Volume(np.zeros((5, 4, 3)), grid)
    with pytest.raises(BadShape):
        numbered(grid).with_array(np.zeros((1, 4, 5)))


def test_a_volume_is_one_value_that_nobody_changes() -> None:
    """Compared by itself, as arrays have no one answer, so that it can be kept in a set."""
    volume, same = (numbered(Geometry((3, 4, 5), (1, 1, 1), (0, 0, 0), CANONICAL)) for _ in "ab")
    assert volume == volume != same
    assert {volume, volume, same} == {volume, same}
    with pytest.raises(FrozenInstanceError):
        volume.warnings = ()  # type: ignore[misc]
