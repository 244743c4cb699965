from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st

from imaging.geometry import Geometry
from imaging.resample import resample_linear, resample_nearest, to_image
from imaging.volume import Volume
from tests.imaging.grids import CANONICAL, STORAGE_ORDERS, geometries, rotation, stored_as

SLOPES = np.array([0.7, -1.3, 2.1])


def ramp(world: np.ndarray) -> np.ndarray:
    """A value that grows linearly along every world axis."""
    return world @ SLOPES + 40.0


def ramp_on(geometry: Geometry, dtype: type = np.float32) -> Volume:
    values = ramp(geometry.to_world(np.stack(np.indices(geometry.shape), -1)))
    return Volume((np.rint(values) if dtype is np.int16 else values).astype(dtype), geometry)


def centred(shape, spacing, direction=CANONICAL) -> Geometry:
    """A grid around the world's origin."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(direction) * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Geometry.from_affine(shape, affine)[0]


CT = centred((24, 40, 36), (1.5, 0.7, 0.8), rotation(8, -5, 12) @ CANONICAL)


def inside(grid: Geometry, source: Geometry, margin: float) -> np.ndarray:
    """Which voxels of a grid are at least so many source voxels away from the source's faces."""
    index = source.to_index(grid.to_world(np.stack(np.indices(grid.shape), -1)))
    return ((index >= margin) & (index <= np.subtract(source.shape, 1 + margin))).all(axis=-1)


@pytest.mark.parametrize("order", STORAGE_ORDERS)
def test_a_ramp_stays_a_ramp_from_every_storage_order(order) -> None:
    # Spacings from finer to coarser than the CT's: no block, blocks of 2 and of 3 and 2 and 4.
    for spacing, margin in (((1.0, 0.6, 0.7), 0), ((3.1, 1.5, 1.7), 2), ((4.6, 1.5, 3.3), 4)):
        grid = centred((8, 12, 8), spacing)
        out = resample_linear(stored_as(ramp_on(CT), order), grid, -5000.0)
        where = inside(grid, CT, margin)
        assert where.sum() > 30
        expected = ramp(grid.to_world(np.stack(np.indices(grid.shape), -1)))
        np.testing.assert_allclose(out.array[where], expected[where], atol=2e-3)
        assert out.geometry is grid


def test_integers_are_rounded_to_the_nearest() -> None:
    grid = centred((20, 20, 20), (1.0, 0.6, 0.7))
    out = resample_linear(ramp_on(CT, np.int16), grid, -1024)
    assert out.array.dtype == np.int16
    where = inside(grid, CT, 0)
    error = out.array[where] - ramp(grid.to_world(np.stack(np.indices(grid.shape), -1)))[where]
    assert np.abs(error).max() <= 1.0
    # Neither darker nor brighter on average: cutting decimals off would be half a unit.
    assert abs(error.mean()) < 0.05


@given(geometries(), st.integers(-1000, 1000))
def test_a_constant_stays_that_constant(geometry: Geometry, value: int) -> None:
    volume = Volume(np.full(geometry.shape, value, np.int16), geometry)
    grid = geometry.crop((0, 0, 0), (1, 1, 1))
    for spacing in ((0.3, 0.3, 0.3), (9.0, 9.0, 9.0)):
        fine = Geometry((2, 2, 2), spacing, grid.origin, CANONICAL)
        out = resample_linear(volume, fine, value).array
        assert (out == value).all()


def test_outside_is_filled() -> None:
    grid = Geometry((4, 4, 4), (5, 5, 5), (500, 500, 500), CANONICAL)
    assert (resample_linear(ramp_on(CT), grid, -1024).array == -1024).all()
    assert (resample_linear(ramp_on(CT, np.int16), grid, -1024).array == -1024).all()
    labels = Volume(np.ones(CT.shape, np.uint8), CT)
    assert not resample_nearest(labels, grid).array.any()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("at", "expected"),
    [(-0.6, -1), (-0.4, 0), (0.5, 0.5), (2.6, 2.6), (3.4, 3), (3.6, -1), (6, -1)],
)
def test_half_a_voxel_beyond_the_faces_holds_their_value(axis, at, expected) -> None:
    source = Geometry((4, 4, 4), (1.5, 0.7, 0.8), (-30, 10, 100), CANONICAL)
    ramp_along = Volume(np.indices(source.shape)[axis].astype(np.float32), source)
    index = np.ones(3)
    index[axis] = at
    grid = Geometry((1, 1, 1), source.spacing, tuple(source.to_world(index)), CANONICAL)
    assert resample_linear(ramp_along, grid, -1.0).array.item() == pytest.approx(expected, abs=1e-5)


def test_blocks_are_averaged() -> None:
    """Noise shrinks by the root of the voxels in a block: plain linear sampling would keep it."""
    source = centred((40, 40, 40), (0.5, 0.5, 0.5))
    noise = np.random.default_rng(0).normal(0, 100, source.shape).astype(np.float32)
    out = resample_linear(Volume(noise, source), centred((8, 8, 8), (2, 2, 2)), 0.0)
    assert out.array.std() < 100 / 6


def test_the_last_block_is_filled_with_the_edge() -> None:
    source = Geometry((7, 2, 2), (1, 1, 1), (0, 0, 0), CANONICAL)
    column = np.array([0, 0, 10, 10, 20, 20, 40], np.float32)
    volume = Volume(np.broadcast_to(column[:, None, None], source.shape).copy(), source)
    grid = Geometry((4, 2, 2), (2, 1, 1), (0, 0, 0.5), CANONICAL)
    np.testing.assert_allclose(resample_linear(volume, grid, -1).array[:, 0, 0], [0, 10, 20, 40])


def test_spacing_far_below_the_grids_takes_no_memory() -> None:
    """A header with metres where millimetres belong must not ask for blocks of the grid's size."""
    source = centred((20, 20, 20), (1e-5, 1e-5, 1e-5))
    out = resample_linear(
        Volume(np.full(source.shape, 7, np.int16), source), centred((1, 1, 1), (2, 2, 2)), 0
    )
    assert out.array.tolist() == [[[7]]]


def sitk_nearest(labels: Volume, grid: Geometry) -> np.ndarray:
    image = to_image(labels.array, labels.geometry)
    reference = sitk.Image(grid.shape[::-1], sitk.sitkUInt8)
    reference.CopyInformation(to_image(np.zeros(grid.shape, np.uint8), grid))
    out = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(out)


def brute_force(labels: Volume, grid: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Nearest neighbours voxel by voxel, and where there is no tie between two of them."""
    world = grid.to_world(np.stack(np.indices(grid.shape), -1))
    index = labels.geometry.to_index(world)
    nearest = np.floor(index + 0.5).astype(int)
    clear = (np.abs(index + 0.5 - np.rint(index + 0.5)) > 1e-4).all(axis=-1)
    ok = ((nearest >= 0) & (nearest < labels.geometry.shape)).all(axis=-1)
    held = np.where(ok[..., None], nearest, 0)
    return np.where(ok, labels.array[tuple(np.moveaxis(held, -1, 0))], 0), clear


@st.composite
def sparse_labels(draw: st.DrawFn, geometry: Geometry) -> Volume:
    """A label map with a few voxels set, at the faces as often as not."""
    array = np.zeros(geometry.shape, np.uint8)
    for _ in range(draw(st.integers(0, 4))):
        index = [draw(st.sampled_from([0, n // 2, n - 1])) for n in geometry.shape]
        array[tuple(index)] = draw(st.integers(1, 11))
    return Volume(array, geometry)


@given(st.data(), geometries(), st.tuples(*[st.floats(0.2, 6)] * 3))
def test_parallel_grids_agree_with_simpleitk(data: st.DataObject, geometry, spacing) -> None:
    """The look-up by axes, and the box that bounds its work, against two others."""
    labels = data.draw(sparse_labels(geometry))
    start = [data.draw(st.floats(-3, n)) for n in geometry.shape]
    shape = data.draw(st.tuples(*[st.integers(1, 20)] * 3))
    origin = geometry.to_world(start)
    grid = Geometry(shape, spacing, tuple(origin), geometry.direction)
    out = resample_nearest(labels, grid).array
    expected, clear = brute_force(labels, grid)
    np.testing.assert_array_equal(out[clear], expected[clear])
    np.testing.assert_array_equal(out[clear], sitk_nearest(labels, grid)[clear])


@given(st.data(), geometries(), geometries())
def test_oblique_grids_agree_with_simpleitk(data: st.DataObject, geometry, other) -> None:
    labels = data.draw(sparse_labels(geometry))
    grid = Geometry(other.shape, other.spacing, geometry.origin, other.direction)
    expected, clear = brute_force(labels, grid)
    out = resample_nearest(labels, grid).array
    np.testing.assert_array_equal(out[clear], expected[clear])
    np.testing.assert_array_equal(out[clear], sitk_nearest(labels, grid)[clear])


@given(geometries(), st.integers(0, 2**31))
def test_a_label_map_on_its_own_grid_is_unchanged(geometry: Geometry, seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 3, geometry.shape).astype(np.uint8)
    np.testing.assert_array_equal(resample_nearest(Volume(array, geometry), geometry).array, array)


@pytest.mark.parametrize("shift", [0.0, 1e-12, -1e-12, 123.4 - 123.4000000000001])
def test_the_last_bits_of_an_origin_change_nothing(shift: float) -> None:
    """Halves are ties: without care, the order of an array's axes would decide them."""
    source = Geometry((9, 9, 9), (1, 1, 1), (0, 0, 0), CANONICAL)
    labels = Volume(np.random.default_rng(0).integers(0, 9, source.shape).astype(np.uint8), source)
    exact, moved = (
        Geometry((16, 16, 16), (0.5, 0.5, 0.5), (0.5 + s, 0.5 + s, 0.5 + s), CANONICAL)
        for s in (0.0, shift)
    )
    np.testing.assert_array_equal(
        resample_nearest(labels, exact).array, resample_nearest(labels, moved).array
    )
    np.testing.assert_array_equal(
        resample_linear(ramp_on(source, np.int16), exact, 0).array,
        resample_linear(ramp_on(source, np.int16), moved, 0).array,
    )


def test_images_lie_where_their_volumes_lie() -> None:
    image = to_image(np.zeros(CT.shape, np.uint8), CT)
    for corner in ((0, 0, 0), (23, 39, 35), (3, 2, 1)):
        np.testing.assert_allclose(
            image.TransformIndexToPhysicalPoint(corner[::-1]), CT.to_world(corner), atol=1e-9
        )
