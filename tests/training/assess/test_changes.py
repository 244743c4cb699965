"""Changes of a CT do what they say, and to the labels whatever is due."""

from __future__ import annotations

import numpy as np
import pytest

from imaging.geometry import Geometry
from imaging.volume import Volume
from tests.serving.tiny_model import boxes_ct
from training.assess.changes import (
    Changed,
    cut,
    enhancement,
    noise_field,
    noisy,
    small_field,
    thick,
    turned,
    washed_out,
)


@pytest.fixture
def boxes() -> Changed:
    ct, labels = boxes_ct()
    return Changed(ct, ct.with_array(labels))


def test_noise_has_the_spread_and_the_grain_asked_for(boxes: Changed) -> None:
    field = noise_field(boxes.image, np.random.default_rng(1))
    changed = noisy(boxes, field, 40.0)
    added = changed.image.array.astype(float) - boxes.image.array
    assert added.std() == pytest.approx(40, rel=0.02)
    assert np.corrcoef(added[:, :, 1:].ravel(), added[:, :, :-1].ravel())[0, 1] > 0.2
    assert abs(np.corrcoef(added[1:].ravel(), added[:-1].ravel())[0, 1]) < 0.05
    assert changed.truth is boxes.truth


def test_thick_slices_are_means_at_the_means_of_their_places(boxes: Changed) -> None:
    changed, made = thick(boxes, 7.0)
    assert made == 7.5
    assert changed.image.array.shape == (6, 40, 48)
    assert changed.image.geometry.spacing == (7.5, 0.8, 0.9)
    mean = boxes.image.array[9:12].mean(0)
    np.testing.assert_array_equal(changed.image.array[3], np.rint(mean))
    middle = boxes.image.geometry.to_world((10, 0, 0))
    np.testing.assert_allclose(changed.image.geometry.to_world((3, 0, 0)), middle)
    np.testing.assert_array_equal(changed.truth.array, boxes.truth.array[:18])
    assert thick(boxes, 2.0) == (boxes, 2.5)


def test_contrast_agent_is_taken_out_of_soft_tissue_alone() -> None:
    rng = np.random.default_rng(0)
    hu = rng.normal(-100, 10, (24, 64, 64))
    hu[:, 8:30, 8:30] += 250  # An organ of 150 HU.
    hu[:, 8:30, 36:56] += 1000  # Bone.
    grid = Geometry(hu.shape, (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)[:, ::-1])
    ct = Volume(hu.astype(np.int16), grid)
    case = Changed(ct, ct.with_array(np.zeros(hu.shape, np.uint8)))
    enhanced = enhancement(ct)
    organ = np.s_[:, 8:30, 8:30]
    plain, half = (washed_out(case, enhanced, left).image.array for left in (0.0, 0.5))
    assert plain[organ].mean() == pytest.approx(45, abs=3)
    assert half[organ].mean() == pytest.approx(97.5, abs=3)
    assert plain[organ].std() == pytest.approx(10, abs=3), "the noise stays"
    np.testing.assert_array_equal(plain[:, 8:30, 36:56], ct.array[:, 8:30, 36:56])
    fat = np.s_[:, 40:, :]
    np.testing.assert_array_equal(plain[fat], ct.array[fat])
    assert washed_out(case, enhanced, 1.0).image.array.tolist() == ct.array.tolist()


@pytest.mark.parametrize(("axis", "kept"), [(0, 2), (1, 1), (2, 0)])
def test_a_turn_is_about_its_axis_through_the_middle(boxes: Changed, axis: int, kept: int) -> None:
    grid = boxes.image.geometry
    changed = turned(boxes, axis, 30.0)
    oblique = changed.image.geometry
    assert changed.truth.geometry is oblique
    np.testing.assert_allclose(oblique.corners().mean(0), grid.corners().mean(0), atol=1e-9)
    np.testing.assert_allclose(oblique.corners()[:, kept], grid.corners()[:, kept], atol=1e-9)
    turn = oblique.direction @ grid.direction.T
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(30)


def test_a_cut_keeps_its_part_of_the_labelled_slices(boxes: Changed) -> None:
    # Labels are in slices 0 to 11.
    upper, lower = cut(boxes, 0.25), cut(boxes, -0.25)
    np.testing.assert_array_equal(upper.image.array, boxes.image.array[9:])
    np.testing.assert_array_equal(lower.image.array, boxes.image.array[:3])
    np.testing.assert_array_equal(upper.truth.array, boxes.truth.array[9:])
    np.testing.assert_allclose(
        upper.image.geometry.origin, boxes.image.geometry.to_world((9, 0, 0))
    )


def test_a_small_field_is_round_and_empty_around(boxes: Changed) -> None:
    changed = small_field(boxes, 20.0)
    # The labelled voxels' middle is row 20.5, column 27.5.
    assert changed.image.array[5, 20, 27] == boxes.image.array[5, 20, 27]
    assert changed.image.array[5, 20, 0] == -1024
    assert changed.image.array[5, 35, 47] == -1024
    assert changed.truth.array[5, 35, 47] == 0 != boxes.truth.array[5, 35, 47]
    inside = (changed.image.array[5] != -1024).sum() * 0.8 * 0.9
    assert inside == pytest.approx(np.pi * 10**2, rel=0.02)
