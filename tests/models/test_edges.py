"""Edges that follow the CT, on balls whose true edges are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imaging.geometry import Geometry
from imaging.resample import resample_linear, resample_nearest
from imaging.volume import Volume
from models.edges import place
from models.labels import BY_NAME
from tests.models.scenes import dice

LIVER, KIDNEY, TUMOR = (BY_NAME[n].value for n in ("liver", "kidney", "kidney_tumor"))
SPACING = (2.5, 0.8, 0.8)
CT = Geometry((40, 125, 125), SPACING, (0.0, 0.0, 0.0), np.eye(3)[:, ::-1])
GRID = Geometry((40, 40, 40), (2.5, 2.5, 2.5), (0.0, 0.0, 0.0), np.eye(3)[:, ::-1])


def ball(grid: Geometry, centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """A ball in mm, (z, y, x), on a grid."""
    axes = [np.arange(n) * s for n, s in zip(grid.shape, grid.spacing, strict=True)]
    apart = np.meshgrid(*(a - c for a, c in zip(axes, centre, strict=True)), indexing="ij")
    return sum(a**2 for a in apart) <= radius**2


def seen(truth: dict[int, np.ndarray], hu: dict[int, float], noise: float = 0.05) -> np.ndarray:
    """What a network sees at 2.5 mm of a noisy CT in which each structure has a brightness."""
    ct = np.random.default_rng(0).normal(-0.5, noise, CT.shape).astype(np.float32)
    for value, mask in truth.items():
        ct[mask] += hu[value] + 0.5
    return resample_linear(Volume(ct, CT), GRID, -1.0).array


def blocky(mask: np.ndarray) -> np.ndarray:
    """A mask in blocks of 2x2x2, as a network answers that works at half the resolution."""
    z, y, x = (n // 2 for n in mask.shape)
    whole = mask.reshape(z, 2, y, 2, x, 2).mean((1, 3, 5)) > 0.5
    return np.kron(whole, np.ones((2, 2, 2), bool))


def test_a_blocky_mask_gets_the_balls_edge() -> None:
    truth = ball(CT, (50, 50, 50), 26)
    coarse = blocky(ball(GRID, (50, 50, 50), 26))
    labels = Volume(coarse.astype(np.uint8) * LIVER, GRID)
    image = seen({LIVER: truth}, {LIVER: 0.4})
    before = dice(resample_nearest(labels, CT).array == LIVER, truth)
    after = dice(place(labels, image, 3.0, CT).array == LIVER, truth)
    assert before < 0.95
    assert after > 0.97


def test_a_mask_too_small_grows_and_one_too_large_shrinks() -> None:
    truth = ball(CT, (50, 50, 50), 26)
    image = seen({LIVER: truth}, {LIVER: 0.4})
    for radius in (23, 29):
        labels = Volume(ball(GRID, (50, 50, 50), radius).astype(np.uint8) * LIVER, GRID)
        before = dice(resample_nearest(labels, CT).array == LIVER, truth)
        after = place(labels, image, 3.0, CT).array == LIVER
        # Half of the way: a mask off by a whole standard deviation everywhere is believed too.
        assert dice(after, truth) > before + 0.07
        assert abs(after.sum() / truth.sum() - 1) < 0.2


def test_where_nothing_tells_them_apart_the_mask_stays() -> None:
    mask = ball(GRID, (50, 50, 50), 26)
    labels = Volume(mask.astype(np.uint8) * LIVER, GRID)
    image = seen({}, {})
    assert dice(place(labels, image, 3.0, CT).array == LIVER, ball(CT, (50, 50, 50), 26)) > 0.95


def test_between_two_organs_the_brightness_decides() -> None:
    liver, kidney = ball(CT, (50, 50, 35), 20), ball(CT, (50, 50, 66), 12)
    liver &= ~kidney
    image = seen({LIVER: liver, KIDNEY: kidney}, {LIVER: 0.1, KIDNEY: 0.7})
    given = np.zeros(GRID.shape, np.uint8)
    given[ball(GRID, (50, 50, 35), 20)] = LIVER
    # Its mask reaches 5 mm into the liver.
    given[ball(GRID, (50, 50, 63.5), 14)] = KIDNEY
    labels = Volume(given, GRID)
    before, after = resample_nearest(labels, CT).array, place(labels, image, 3.0, CT).array
    assert dice(after == KIDNEY, kidney) > dice(before == KIDNEY, kidney) + 0.05
    assert dice(after == LIVER, liver) > 0.97


def test_lesions_stay_and_belong_to_their_organ() -> None:
    organ, lesion = ball(CT, (50, 50, 50), 26), ball(CT, (50, 50, 62), 8)
    image = seen({KIDNEY: organ, TUMOR: lesion}, {KIDNEY: 0.6, TUMOR: -0.5})
    given = ball(GRID, (50, 50, 50), 26).astype(np.uint8) * KIDNEY
    given[ball(GRID, (50, 50, 62), 8)] = TUMOR
    labels = Volume(given, GRID)
    found = place(labels, image, 3.0, CT).array
    assert np.array_equal(found == TUMOR, resample_nearest(labels, CT).array == TUMOR)
    # As dark as what lies around the organ, and yet no hole nor gap around it.
    assert dice(found > 0, organ) > 0.96


def test_without_a_width_every_voxel_has_the_nearest_label() -> None:
    labels = Volume(ball(GRID, (50, 50, 50), 20).astype(np.uint8) * LIVER, GRID)
    nearest = resample_nearest(labels, CT).array
    assert np.array_equal(place(labels, np.zeros(GRID.shape, np.float32), 0.0, CT).array, nearest)


@pytest.mark.parametrize("away", [0.0, 500.0])
def test_nothing_stays_nothing_and_what_lies_elsewhere_is_not_drawn(away: float) -> None:
    grid = dataclasses.replace(GRID, origin=(away, away, away))
    mask = ball(GRID, (50, 50, 50), 20 if away else 0).astype(np.uint8)
    mask[20, 20, 20] = 0
    found = place(Volume(mask * LIVER, grid), np.zeros(GRID.shape, np.float32), 3.0, CT)
    assert found.geometry is CT
    assert not found.array.any()


def test_a_scan_that_ends_in_an_organ_has_it_to_the_end() -> None:
    truth = ball(CT, (0, 50, 50), 26)
    labels = Volume(ball(GRID, (0, 50, 50), 26).astype(np.uint8) * LIVER, GRID)
    found = place(labels, seen({LIVER: truth}, {LIVER: 0.4}), 3.0, CT).array
    assert dice(found[0] == LIVER, truth[0]) > 0.97
