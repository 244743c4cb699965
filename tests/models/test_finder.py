"""A finder spares voxels, never a mask: where it may be wrong, everything is visited."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.errors import BadManifest, BadParameter, CorruptModel
from imaging.geometry import Geometry
from imaging.volume import Volume
from models.finder import described, reaches_beyond, region
from models.manifest import Cleanup, Finder, Intensity, Manifest, Sampling
from models.predict import predict
from tests.imaging.grids import CANONICAL, STORAGE_ORDERS, stored_as
from tests.models.scenes import HU, by_tissue, deep_manifest

FINDER = Finder(8.0, (4, 4, 4), "0" * 64, ("kidney",), 0.8, 1.0, 6.0)
SHAPE = (60, 70, 80)
ORGAN = (slice(24, 36), slice(20, 38), slice(40, 60))
GRID = Geometry(SHAPE, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), CANONICAL)


def made(**fields: Any) -> Manifest:
    described = dataclasses.replace(FINDER, **fields)
    return deep_manifest(
        sampling=Sampling((2.0, 2.0, 2.0)), finder=described, patch=(64, 64, 64), divisor=(4, 4, 4)
    )


def ct(*organs: tuple[slice, slice, slice]) -> Volume:
    hu = np.full(SHAPE, HU["background"], np.int16)
    for organ in organs:
        hu[organ] = HU["kidney"]
    return Volume(hu, GRID)


def glance(strength: float = 40.0) -> Callable[[np.ndarray], np.ndarray]:
    """Scores foreground by how much brighter than the background a block is."""

    def score(patches: np.ndarray) -> np.ndarray:
        logits = strength * (patches[:, 0] - 0.2)
        return np.stack([-logits, logits], axis=1).astype(np.float32)

    return score


class Visits:
    """A network that counts the voxels it was given."""

    def __init__(self, made: Manifest) -> None:
        self.scorer, self.voxels = by_tissue(made), 0

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        self.voxels += patches.size
        return self.scorer(patches)


def visited(volume: Volume, manifest: Manifest, finder: Any) -> tuple[np.ndarray, int]:
    network = Visits(manifest)
    found = predict(volume, manifest, network, finder=finder)
    return found.labels.array, network.voxels


def test_a_part_is_visited_and_the_masks_are_the_same() -> None:
    whole, all_voxels = visited(ct(ORGAN), made(), None)
    part, voxels = visited(ct(ORGAN), made(), glance())
    assert whole.any()
    np.testing.assert_array_equal(part, whole)
    assert voxels < all_voxels / 5


@pytest.mark.parametrize("order", STORAGE_ORDERS[:6])
def test_any_storage_order_gives_the_same(order: Any) -> None:
    expected, _ = visited(ct(ORGAN), made(), glance())
    found, _ = visited(stored_as(ct(ORGAN), order), made(), glance())
    np.testing.assert_array_equal(found, stored_as(Volume(expected, GRID), order).array)


def test_the_box_holds_what_was_found_and_the_margin() -> None:
    box = region(_image(ct(ORGAN)), GRID, made(), glance())
    assert box is not None
    for side, organ, n in zip(box, ORGAN, SHAPE, strict=True):
        # Whole blocks of four voxels, and three voxels of margin.
        assert side.start == max(0, organ.start // 4 * 4 - 3)
        assert side.stop == min(n, -(-organ.stop // 4) * 4 + 3)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_an_unsure_finder_has_everything_visited(strength: float) -> None:
    assert region(_image(ct(ORGAN)), GRID, made(), glance(strength)) is None
    whole, all_voxels = visited(ct(ORGAN), made(), None)
    part, voxels = visited(ct(ORGAN), made(), glance(strength))
    assert voxels == all_voxels
    np.testing.assert_array_equal(part, whole)


def test_what_nowhere_is_sure_is_not_counted() -> None:
    """A second, paler thing far away is marked, and sure nowhere."""
    image = _image(ct(ORGAN))
    image[48:56, 60:68, 4:12] = 0.21
    alone = region(_image(ct(ORGAN)), GRID, made(), glance())
    assert region(image, GRID, made(), glance()) == alone
    assert region(image, GRID, made(sure=0.6), glance()) != alone


def test_what_is_too_small_is_not_counted() -> None:
    image = _image(ct(ORGAN))
    image[48:56, 60:68, 4:12] = 0.9
    alone = region(_image(ct(ORGAN)), GRID, made(), glance())
    # Eight blocks of 8 mm are 4.1 ml.
    assert region(image, GRID, made(least_ml=4.2), glance()) == alone
    assert region(image, GRID, made(least_ml=4.0), glance()) != alone


def test_what_the_model_would_clean_away_is_not_counted() -> None:
    """A second thing far away looks just like the organ, and is smaller."""
    image = _image(ct(ORGAN))
    image[48:56, 60:68, 4:12] = 0.9
    alone = region(_image(ct(ORGAN)), GRID, made(), glance())
    one = dataclasses.replace(made(), cleanup=(Cleanup("kidney", keep_largest=1),))
    assert region(image, GRID, one, glance()) == alone
    assert region(image, GRID, made(), glance()) != alone


def test_a_mask_that_goes_on_beyond_the_box_has_everything_visited() -> None:
    """The finder sees half of the organ alone."""

    def blind(patches: np.ndarray) -> np.ndarray:
        scores = glance()(patches)
        scores[:, :, :, :, 12:] = np.array([9.0, -9.0]).reshape(1, 2, 1, 1, 1)
        return scores

    manifest = made(margin_mm=0.0)
    whole, all_voxels = visited(ct(ORGAN), manifest, None)
    part, voxels = visited(ct(ORGAN), manifest, blind)
    assert voxels > all_voxels
    np.testing.assert_array_equal(part, whole)


def test_nothing_is_spared_where_the_organ_is_everywhere() -> None:
    full = tuple(slice(0, n) for n in SHAPE)
    assert region(_image(ct(full)), GRID, made(), glance()) is None


@given(st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.floats(0.5, 12)] * 3))
def test_any_grid_has_a_box_inside_it(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    grid = Geometry(shape, spacing, (0.0, 0.0, 0.0), CANONICAL)
    image = np.zeros(shape, np.float32)
    image[tuple(slice(n // 3, n // 3 + n // 2 + 1) for n in shape)] = 1.0
    box = region(image, grid, made(sure=0.01, least_ml=0, margin_mm=0), glance(1000.0))
    if box is not None:
        assert image[box].any()
        assert all(0 <= s.start < s.stop <= n for s, n in zip(box, shape, strict=True))


def test_a_side_of_the_whole_is_no_side_of_the_box() -> None:
    mask = np.zeros((4, 4, 4), np.bool_)
    mask[0, 1, 1] = True
    box = (slice(0, 4), slice(2, 6), slice(2, 6))
    assert not reaches_beyond(mask, box, (8, 8, 8))
    assert reaches_beyond(mask, (slice(1, 5), *box[1:]), (8, 8, 8))
    mask[0, 1, 1], mask[3, 1, 1] = False, True
    assert reaches_beyond(mask, box, (8, 8, 8))
    assert not reaches_beyond(mask, box, (4, 8, 8))


@pytest.mark.parametrize("wrong", ["shape", "channels", "nan"])
def test_scores_that_are_none_are_refused(wrong: str) -> None:
    def broken(patches: np.ndarray) -> np.ndarray:
        scores = glance()(patches)
        if wrong == "nan":
            scores[0, 0, 0, 0, 0] = np.nan
        return {"shape": scores[..., 1:], "channels": scores[:, :1], "nan": scores}[wrong]

    with pytest.raises(CorruptModel, match="finder"):
        region(_image(ct(ORGAN)), GRID, made(), broken)


@pytest.mark.parametrize(
    "field",
    [
        {"spacing_mm": 0.5},
        {"spacing_mm": 51.0},
        {"divisor": (0, 4, 4)},
        {"divisor": (4, 4, 512)},
        {"sure": 0.0},
        {"outputs": ("nonsense",)},
        {"sure": 1.1},
        {"margin_mm": -1.0},
        {"margin_mm": 501.0},
        {"least_ml": -1.0},
        {"least_ml": 10001.0},
    ],
)
def test_a_finder_out_of_range_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(BadManifest):
        dataclasses.replace(FINDER, **field)


def test_a_finder_cannot_see_what_the_whole_scan_scales() -> None:
    with pytest.raises(BadManifest, match="whole scan"):
        deep_manifest(finder=FINDER, intensity=Intensity((-300.0, 500.0), "scan"))


def test_a_manifest_with_a_finder_comes_back() -> None:
    assert Manifest.from_json(made().to_json()) == made()


def _image(volume: Volume) -> np.ndarray:
    """0 for the background, near 1 for the organ."""
    return ((volume.array + 300) / 800).astype(np.float32)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"activation": "sigmoid"}, "no finder"),
        ({"intensity": Intensity((-100.0, 300.0))}, "sees"),
        ({"sampling": Sampling((8.0, 8.0, 4.0))}, "no finder"),
        ({"sampling": Sampling((None, None, None))}, "no finder"),
        ({"outputs": ("pancreas", "liver")}, "does not look for kidney"),
    ],
)
def test_what_is_no_finder_of_a_model_is_refused(fields: dict[str, Any], words: str) -> None:
    model = dataclasses.replace(made(), outputs=("pancreas", "kidney"), finder=None)
    glance = dataclasses.replace(model, sampling=Sampling((8.0, 8.0, 8.0)))
    found = described(model, glance, b"its file")
    assert (found.spacing_mm, found.divisor) == (8.0, glance.divisor)
    assert found.sha256 == hashlib.sha256(b"its file").hexdigest()
    with pytest.raises(BadParameter, match=words):
        described(model, dataclasses.replace(glance, **fields), b"its file")
