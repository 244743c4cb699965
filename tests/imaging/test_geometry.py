from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.errors import BadGeometry
from imaging.geometry import Geometry, canonical_axes
from tests.imaging.grids import CANONICAL, STORAGE_ORDERS, geometries, origins, rotation

points = st.lists(st.tuples(*[st.floats(-50, 50)] * 3), min_size=1, max_size=5)


def sheared(degrees: float) -> np.ndarray:
    """An affine of 2 mm steps whose x axis leans towards y by so many degrees."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    lean = np.radians(degrees)
    affine[:3, 2] = [0.0, 2 * np.sin(lean), 2 * np.cos(lean)]
    return affine


@given(geometries(), points)
def test_index_to_world_and_back(geometry: Geometry, index: list[tuple[float, ...]]) -> None:
    world = geometry.to_world(index)
    np.testing.assert_allclose(geometry.to_index(world), index, atol=1e-8)
    homogeneous = np.column_stack([index, np.ones(len(index))])
    np.testing.assert_allclose(world, (homogeneous @ geometry.affine.T)[:, :3], atol=1e-8)


@given(geometries())
def test_an_affine_gives_its_grid_back(geometry: Geometry) -> None:
    again, warnings = Geometry.from_affine(geometry.shape, geometry.affine)
    assert warnings == ()
    assert again.close_to(geometry, 1e-9)


@given(geometries(), st.sampled_from(STORAGE_ORDERS))
def test_transposing_keeps_every_voxel_in_place(geometry, order) -> None:
    axes, flips = order
    index = np.stack(np.indices(geometry.shape), -1)
    moved = index.transpose(*axes, 3)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    grid = geometry.transposed(axes, flips)
    assert grid.shape == moved.shape[:3]
    here = grid.to_world(np.stack(np.indices(grid.shape), -1))
    np.testing.assert_allclose(here, geometry.to_world(moved), atol=1e-8)


@given(geometries(), st.data())
def test_cropping_keeps_every_voxel_in_place(geometry: Geometry, data: st.DataObject) -> None:
    start = [data.draw(st.integers(0, n - 1)) for n in geometry.shape]
    shape = [data.draw(st.integers(1, n - s)) for n, s in zip(geometry.shape, start, strict=True)]
    cropped = geometry.crop(start, shape)
    assert cropped.shape == tuple(shape)
    np.testing.assert_allclose(
        cropped.to_world([0.5, 1.0, 2.0]), geometry.to_world(np.add(start, [0.5, 1, 2])), atol=1e-8
    )


@given(geometries())
def test_canonical_axes_run_up_back_and_left(geometry: Geometry) -> None:
    direction = geometry.transposed(*canonical_axes(geometry.direction)).direction
    along = np.diag(direction[::-1])
    assert (along >= 0).all()
    # The nearest of all 48 ways.
    best = max(
        np.trace((geometry.direction[:, list(a)] * np.where(f, -1, 1))[::-1])
        for a, f in STORAGE_ORDERS
    )
    assert np.trace(direction[::-1]) == pytest.approx(best)


def test_the_axes_are_the_nearest_of_any_rotation() -> None:
    """Altogether: one axis that is very near does not make up for two that are not."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        direction = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        along = np.abs(direction[::-1])
        best = max(sum(along[row, a] for row, a in enumerate(p)) for p in permutations(range(3)))
        axes, _ = canonical_axes(direction)
        assert sum(along[row, a] for row, a in enumerate(axes)) == pytest.approx(best)


@pytest.mark.parametrize("degrees", [0.1, 1.0, 4.9])
def test_a_small_shear_is_corrected_with_a_warning(degrees: float) -> None:
    geometry, warnings = Geometry.from_affine((4, 4, 4), sheared(degrees))
    assert len(warnings) == 1
    assert f"{degrees:.3f} degrees" in warnings[0]
    np.testing.assert_allclose(geometry.direction.T @ geometry.direction, np.eye(3), atol=1e-12)
    # The nearest direction shares the lean between both axes.
    lean = np.degrees(np.arccos(geometry.direction[2, 2]))
    assert lean == pytest.approx(degrees / 2, rel=1e-3)
    assert geometry.spacing == pytest.approx((2, 2, 2))


def test_the_rounding_of_headers_is_no_shear() -> None:
    affine = np.diag([5.0, 0.7, 0.7, 1.0])
    affine[:3, :3] = rotation(10, 20, 30) * [5.0, 0.7, 0.7]
    assert Geometry.from_affine((3, 3, 3), affine.astype(np.float32).astype(float))[1] == ()
    assert Geometry.from_affine((3, 3, 3), np.round(affine, 5))[1] == ()


@pytest.mark.parametrize("degrees", [5.1, 20, 60])
def test_a_large_shear_is_refused(degrees: float) -> None:
    with pytest.raises(BadGeometry, match="degrees from perpendicular") as caught:
        Geometry.from_affine((4, 4, 4), sheared(degrees))
    assert caught.value.details["shear_degrees"] == pytest.approx(degrees, abs=0.01)


@pytest.mark.parametrize(
    "affine",
    [
        np.zeros((4, 4)),
        np.diag([1.0, 1.0, 0.0, 1.0]),
        sheared(90),
        np.full((4, 4), np.nan),
        np.diag([1.0, np.inf, 1.0, 1.0]),
        np.diag([1.0, 1e300, 1.0, 1.0]),
        np.eye(3),
        np.zeros(4),
        np.eye(5),
        np.eye(4)[:3],
    ],
    ids=["zero", "flat", "parallel", "nan", "inf", "huge", "3x3", "vector", "5x5", "3x4"],
)
def test_an_affine_that_maps_no_grid_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(BadGeometry):
        Geometry.from_affine((4, 4, 4), affine)


def test_axes_in_one_plane_are_called_singular() -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 2] = [np.sqrt(2), np.sqrt(2), 0]
    with pytest.raises(BadGeometry, match="singular"):
        Geometry.from_affine((4, 4, 4), affine)


@pytest.mark.parametrize(
    ("shape", "spacing", "origin", "direction"),
    [
        ((4, 4), (1, 1, 1), (0, 0, 0), CANONICAL),
        ((4, 4, 4, 4), (1, 1, 1), (0, 0, 0), CANONICAL),
        ((0, 4, 4), (1, 1, 1), (0, 0, 0), CANONICAL),
        ((4, 4, 4), (1, 0, 1), (0, 0, 0), CANONICAL),
        ((4, 4, 4), (1, 1), (0, 0, 0), CANONICAL),
        ((4, 4, 4), (1, -1, 1), (0, 0, 0), CANONICAL),
        ((4, 4, 4), (1, 1, 1), (0, np.nan, 0), CANONICAL),
        ((4, 4, 4), (1, 1, 1), (0, 0, 0), 2 * CANONICAL),
        ((4, 4, 4), (1, 1, 1), (0, 0, 0), np.eye(4)),
    ],
)
def test_what_is_no_grid_is_refused(shape, spacing, origin, direction) -> None:
    with pytest.raises(BadGeometry):
        Geometry(shape, spacing, origin, direction)


@given(geometries(), origins)
def test_grids_are_close_only_when_their_corners_are(geometry: Geometry, shift) -> None:
    moved, _ = Geometry.from_affine(
        geometry.shape, geometry.affine + np.pad(np.array([shift]).T, ((0, 1), (3, 0)))
    )
    assert geometry.close_to(moved, 1.0) == (max(map(abs, shift)) <= 1.0)
    assert not geometry.close_to(geometry.crop((0, 0, 0), (1, 1, 1)))


def test_corners_are_the_eight_outermost_voxels() -> None:
    geometry = Geometry((3, 4, 5), (2.5, 0.7, 0.8), (-30, 10, 100), rotation(8, -5, 12) @ CANONICAL)
    corners = [(z, y, x) for z in (0, 2) for y in (0, 3) for x in (0, 4)]
    np.testing.assert_allclose(geometry.corners(), geometry.to_world(corners), atol=1e-9)


@pytest.mark.parametrize(("shift", "close"), [(0.009, True), (0.011, False), (0.5, False)])
def test_grids_are_close_within_a_hundredth_of_a_millimetre(shift: float, close: bool) -> None:
    geometry = Geometry((3, 4, 5), (2.5, 0.7, 0.8), (0, 0, 0), CANONICAL)
    moved = Geometry((3, 4, 5), (2.5, 0.7, 0.8), (shift, 0, 0), CANONICAL)
    assert geometry.close_to(moved) is close


def test_grids_of_other_steps_between_the_same_corners_are_not_close() -> None:
    fine = Geometry((3, 3, 3), (1, 1, 1), (0, 0, 0), CANONICAL)
    coarse = Geometry((2, 3, 3), (2, 1, 1), (0, 0, 0), CANONICAL)
    np.testing.assert_array_equal(fine.corners(), coarse.corners())
    assert not fine.close_to(coarse)
    assert not coarse.close_to(fine)
    # Equal, not the same: shapes come from headers.
    assert fine.close_to(replace(fine, shape=(int("3"), 3, 3)))


def test_a_direction_may_be_as_far_from_orthonormal_as_files_round_it() -> None:
    """Up to a thousandth in the products of its axes."""

    def leaning(by: float) -> np.ndarray:
        direction = np.eye(3)
        direction[:, 2] = [0, by, np.sqrt(1 - by**2)]
        return direction

    Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), leaning(0.95e-3))
    with pytest.raises(BadGeometry, match="perpendicular"):
        Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), leaning(1.05e-3))


def test_a_grid_cannot_be_changed() -> None:
    direction = np.eye(3)
    geometry = Geometry((2, 3, 4), (1, 2, 3), (0, 0, 0), direction)
    direction[0, 0] = 5
    assert geometry.direction[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        geometry.direction[0, 0] = 2
    with pytest.raises(FrozenInstanceError):
        geometry.spacing = (2, 2, 2)
    assert geometry.voxel_ml == pytest.approx(0.006)
    # Arrays have no one answer to whether they are equal, so a grid equals itself alone.
    assert {geometry, geometry} == {geometry} != {replace(geometry)}


def test_a_zero_that_went_through_a_calculation_is_zero() -> None:
    """With 2e-308 among its cosines ITK silently resamples from somewhere else."""
    direction = CANONICAL.copy()
    direction[0, 0] = 2.2e-308
    direction[1, 0] = -6e-17
    np.testing.assert_array_equal(
        Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), direction).direction, CANONICAL
    )
