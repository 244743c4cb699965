"""The exponent of known curves, and a pipeline's own at toy size; the CTs that it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import cts, scaling
from benchmarks.frame import finish
from benchmarks.scaling import compared, exponent, larger, measure
from imaging.errors import BadParameter
from imaging.read import read_volume
from imaging.writers.nifti import write_nifti
from models.store import Store
from tests.serving.tiny_model import boxes_ct, publish

SIZES = (50, 100, 200, 400, 800)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_the_exponent_is_the_power_of_the_larger_sizes(power: float) -> None:
    curve = {n: [9e9, n**power, 0.0] for n in SIZES}
    # What every size costs alike, and small sizes above all, is not in the fit.
    curve |= {50: [1e6], 100: [1e6]}
    assert exponent(curve) == pytest.approx(power)


def test_two_sizes_at_least_are_fitted() -> None:
    assert larger(SIZES) == [200, 400, 800]
    assert larger((800, 50, 400, 100)) == [400, 800]
    assert larger((100, 50)) == [50, 100]
    with pytest.raises(BadParameter, match="two sizes"):
        larger([50])


def test_worse_than_linear_misses_the_bar() -> None:
    network = {n: [n * 0.5] for n in SIZES}
    quadratic = {n: [n * 0.5 + n**2] for n in SIZES}
    result = compared(quadratic, network, {})
    assert result.missed() == ["exponent"]
    assert result.ratios["exponent_network"] == pytest.approx(1.0)
    assert result.ratios["exponent_rest"] == pytest.approx(2.0)
    assert result.facts["rest_s"][800]["median"] == pytest.approx(800**2)
    linear = {n: [n * 1.0] for n in SIZES}
    assert compared(linear, network, {}).missed() == []


def test_a_pipeline_is_timed_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store", behind=())
    publish(store, tmp_path)
    monkeypatch.setenv("ISLET_STORE", str(store.root))
    files = {n: tmp_path / f"{n}.nii.gz" for n in (20, 40)}
    for slices, path in files.items():
        write_nifti(boxes_ct((slices, 40, 48))[0], path)
    whole, network = measure(files, "starter", 2, tmp_path)
    assert {n: len(seconds) for n, seconds in whole.items()} == {20: 2, 40: 2}
    for slices in files:
        pairs = zip(whole[slices], network[slices], strict=True)
        assert all(0 < inside < seconds for seconds, inside in pairs)
    result = compared(whole, network, {"model": "starter"})
    drawn = tmp_path / "out" / "scaling.json"
    finish(result, drawn, lambda axes: scaling._draw(axes, whole, network))
    assert drawn.with_suffix(".png").stat().st_size > 0


def test_a_ct_has_its_size_and_its_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cts, "_PIXELS", 64)
    monkeypatch.setattr(cts, "_SPACING_MM", (1.6, 5.92, 5.92))
    volume = read_volume(cts.phantom(tmp_path, 35))
    assert volume.array.shape == (35, 64, 64)
    assert volume.array.dtype == np.int16
    assert volume.geometry.spacing == pytest.approx((1.6, 5.92, 5.92), abs=1e-5)
    # A body in air; neighbouring slices differ by their noise, not by their anatomy.
    assert 0.1 < float((volume.array > -300).mean()) < 0.8
    body = (volume.array[:-1] > -300) & (volume.array[1:] > -300)
    apart = np.diff(volume.array.astype(np.float32), axis=0)[body]
    assert np.median(np.abs(apart)) > 5


def test_a_repeated_ct_goes_on_as_its_mirror_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cts, "_PIXELS", 64)
    monkeypatch.setattr(cts, "_SPACING_MM", (1.6, 5.92, 5.92))
    monkeypatch.setattr(cts, "SLICES", 32)
    short, long = (read_volume(cts.repeated(tmp_path, n)) for n in (20, 90))
    assert short.array.shape == (20, 64, 64)
    assert long.array.shape == (90, 64, 64)
    # The last slice has nothing behind it to be interpolated with.
    np.testing.assert_array_equal(short.array[:19], long.array[:19])
    body = long.array.astype(np.float32)
    mirrored = np.abs(body[32:64] - body[:32][::-1]).mean()
    strange = np.abs(body[32:64] - body[:32]).mean()
    # Two voxels of noise of 14 HU are 15.8 HU apart.
    assert mirrored == pytest.approx(15.8, abs=0.5)
    assert strange > 1.5 * mirrored
