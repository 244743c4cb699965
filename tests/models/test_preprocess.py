from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.errors import BadManifest, InputTooLarge
from imaging.geometry import Geometry
from imaging.volume import Volume, to_canonical
from models.manifest import Intensity, Sampling
from models.preprocess import featureless, model_grid, normalise, round_half_up, to_model_grid
from tests.imaging.grids import CANONICAL, STORAGE_ORDERS, geometries, origins, stored_as

CT = Geometry((20, 60, 50), (5.0, 0.8, 0.9), (-120.3, -85.7, 411.1), CANONICAL)
samplings = st.builds(Sampling, st.tuples(*[st.sampled_from([None, 1.0, 2.5, 4.0])] * 3)) | st.just(
    Sampling((None, None, None), (None, 32, 48))
)


def test_spacing_is_the_manifests_and_none_keeps_the_cts() -> None:
    grid = model_grid(CT, Sampling((None, 2.5, 2.0)))
    assert grid.spacing == (5.0, 2.5, 2.0)
    assert grid.shape[0] == 20
    np.testing.assert_array_equal(grid.direction, CANONICAL)


def test_size_covers_the_whole_extent() -> None:
    grid = model_grid(CT, Sampling((None, None, None), (None, 256, 256)))
    assert grid.shape == (20, 256, 256)
    # The faces of the outer voxels coincide, not their centres.
    assert np.multiply(grid.shape, grid.spacing) == pytest.approx([100, 48, 45])
    assert grid.to_world([-0.5] * 3) == pytest.approx(CT.to_world([-0.5] * 3))


def test_a_ct_on_the_models_spacing_keeps_its_own_voxels() -> None:
    volume = Volume(np.random.default_rng(0).integers(-1024, 2000, CT.shape).astype(np.int16), CT)
    for sampling in (Sampling((None, None, None)), Sampling((5.0, 0.8, 0.9))):
        seen = to_model_grid(volume, sampling)
        assert seen.geometry.close_to(CT, 1e-6)
        np.testing.assert_array_equal(seen.array, volume.array)
        assert seen.array.dtype == np.int16


@given(geometries(), samplings)
def test_the_grid_covers_the_ct_and_shares_its_centre(geometry: Geometry, sampling) -> None:
    canonical = to_canonical(Volume(np.zeros(geometry.shape, np.int16), geometry)).geometry
    grid = model_grid(canonical, sampling)
    middle = grid.to_world((np.asarray(grid.shape) - 1) / 2)
    np.testing.assert_allclose(middle, geometry.corners().mean(axis=0), atol=1e-6)
    index = grid.to_index(geometry.corners())
    # No voxel of the CT lies further out than the last one of the grid reaches.
    assert (index > -0.76).all()
    assert (index < np.subtract(grid.shape, 0.24)).all()
    np.testing.assert_array_equal(grid.direction, CANONICAL)


@given(st.sampled_from(STORAGE_ORDERS), origins, samplings, st.integers(0, 99))
def test_every_storage_order_gives_the_same_network_input(order, origin, sampling, seed) -> None:
    geometry = Geometry((6, 12, 10), (2.5, 1.7, 1.3), origin, CANONICAL)
    hu = np.random.default_rng(seed).integers(-1024, 2000, geometry.shape).astype(np.int16)
    volume = Volume(hu, geometry)
    one = to_model_grid(volume, sampling)
    other = to_model_grid(stored_as(volume, order), sampling)
    np.testing.assert_array_equal(one.array, other.array)
    assert one.geometry.close_to(other.geometry, 1e-6)


def test_what_lies_outside_the_ct_is_air() -> None:
    turned = Geometry((12, 12, 12), (2, 2, 2), (0, 0, 0), CANONICAL)
    axes = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    volume = Volume(
        np.full(turned.shape, 40, np.int16), Geometry(turned.shape, (2, 2, 2), (0, 0, 0), axes)
    )
    seen = to_model_grid(volume, Sampling((2.0, 2.0, 2.0))).array
    assert seen[0, 0, 0] == -1024
    assert set(np.unique(seen)) == {-1024, 40}


def test_a_ct_of_kilometres_is_refused() -> None:
    """As a header with metres for millimetres makes it: the grid would fill any memory."""
    absurd = Geometry((100, 512, 512), (2500.0, 700.0, 700.0), (0, 0, 0), CANONICAL)
    with pytest.raises(InputTooLarge, match="check its spacing") as caught:
        model_grid(absurd, Sampling((2.5, 2.5, 2.5)))
    json.dumps(caught.value.as_dict())


WINDOW = (-150.0, 250.0)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_windows(dtype: type) -> None:
    hu = np.array([-1024, -150, 50, 250, 3000], dtype)
    kept = hu.copy()
    unit = normalise(hu, Intensity(WINDOW))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(normalise(hu, Intensity(WINDOW, "signed")), [-1, -1, 0, 1, 1])
    np.testing.assert_array_equal(hu, kept)


def test_scan_scaling_takes_the_clipped_scans_own_range() -> None:
    hu = np.array([-50, 0, 50, 3000], np.int16)
    np.testing.assert_allclose(normalise(hu, Intensity(WINDOW, "scan")), [0, 1 / 6, 1 / 3, 1])
    flat = normalise(np.full(3, 40, np.int16), Intensity(WINDOW, "scan"))
    np.testing.assert_array_equal(flat, 0)


@given(st.lists(st.integers(-32768, 32767), min_size=2), st.sampled_from(["unit", "scan"]))
def test_input_lies_in_its_range_and_keeps_order(values: list[int], scale: str) -> None:
    out = normalise(np.array(sorted(values), np.int16), Intensity(WINDOW, scale))
    assert out.min() >= 0
    assert out.max() <= 1
    assert (np.diff(out) >= 0).all()


def test_halves_round_up() -> None:
    assert [round_half_up(v) for v in (0.4, 0.5, 1.5, 2.5, 2.4999999999)] == [0, 1, 2, 3, 3]


def _body(geometry: Geometry) -> Volume:
    """A body of 100 HU in air, away from the volume's edges, and a smaller table beside it."""
    hu = np.full(geometry.shape, -1000, np.int16)
    hu[:, 20:40, 12:36] = 100
    hu[:, 50:53, 5:45] = 200
    return Volume(hu, geometry)


@pytest.mark.parametrize("order", STORAGE_ORDERS)
def test_a_grid_of_the_body_leaves_the_rest_out(order) -> None:
    volume = _body(CT)
    whole = to_model_grid(volume, Sampling((5.0, 2.0, 2.0)))
    seen = to_model_grid(stored_as(volume, order), Sampling((5.0, 2.0, 2.0), body=True))
    start = np.rint(whole.geometry.to_index(seen.geometry.origin)).astype(int)
    part = tuple(slice(a, a + n) for a, n in zip(start, seen.array.shape, strict=True))
    # A part of the whole grid, voxel for voxel, with all of the body and little else.
    np.testing.assert_allclose(whole.geometry.to_index(seen.geometry.origin), start, atol=1e-6)
    np.testing.assert_array_equal(seen.array, whole.array[part])
    assert (seen.array > 50).sum() == (whole.array[:, :19] > 50).sum()
    assert seen.array.shape[1] * 2.0 < 20 * 0.8 + 2 * 2
    assert seen.array.shape[2] * 2.0 < 24 * 0.9 + 2 * 2


def test_a_volume_of_air_is_its_own_body() -> None:
    air = Volume(np.full(CT.shape, -1000, np.int16), CT)
    whole = to_model_grid(air, Sampling((5.0, 2.0, 2.0)))
    seen = to_model_grid(air, Sampling((5.0, 2.0, 2.0), body=True))
    assert seen.geometry.close_to(whole.geometry)


def test_a_grid_of_given_size_is_of_the_whole_extent() -> None:
    with pytest.raises(BadManifest, match="covers the whole extent"):
        Sampling((None, None, None), (None, 256, 256), body=True)


@pytest.mark.parametrize("spacing", [(2.5, 1.5, 1.5), (5.0, 5.0, 5.0), (3.0, 3.0, 3.0)])
def test_noise_and_one_brightness_show_nothing(spacing: tuple[float, float, float]) -> None:
    """Also where the network's grid is finer or coarser than the noise."""
    rng = np.random.default_rng(3)
    sampling = Sampling((2.5, 2.5, 2.5), (None, None, None))
    window = Intensity((-160.0, 240.0), "signed")
    for hu in (rng.integers(-1024, 3071, (40, 64, 64)), np.full((40, 64, 64), 3071)):
        volume = Volume(hu.astype(np.int16), Geometry((40, 64, 64), spacing, CT.origin, CANONICAL))
        seen = to_model_grid(volume, sampling)
        assert featureless(normalise(seen.array, window))


def test_whatever_has_a_shape_shows_something() -> None:
    """A noisy disc, a few slices of it, and a few voxels that tell nothing."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[-20:20, -20:20]
    disc = np.broadcast_to((np.hypot(y, x) < 12).astype(np.float32), (12, 40, 40))
    noisy = disc + rng.normal(0.0, 0.3, disc.shape).astype(np.float32)
    assert not featureless(noisy)
    elsewhere = rng.normal(0.0, 0.3, (40, 40, 40)).astype(np.float32)
    elsewhere[16:20] = noisy[:4]
    assert not featureless(elsewhere)
    assert not featureless(noisy[:2])
    assert not featureless(rng.normal(0.0, 1.0, (2, 2, 2)).astype(np.float32))
