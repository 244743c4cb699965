"""Surface measures by hand, against MONAI and against DeepMind's own surface_distance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.ndimage import gaussian_filter
from surface_distance import (
    compute_surface_dice_at_tolerance,
    compute_surface_distances,
)

from imaging.errors import BadParameter
from models.labels import GROUPS
from training.surfaces import (
    KITS21_TOLERANCES_MM,
    Mask,
    Spacing,
    average_surface_distance,
    hausdorff95,
    surface_dice,
)

Measure = Callable[[Mask, Mask, Spacing], float]
MEASURES: tuple[Measure, ...] = (
    average_surface_distance,
    hausdorff95,
    lambda a, b, spacing: surface_dice(a, b, spacing, 1.0),
)
ISOTROPIC = (1.0, 1.0, 1.0)
quick = settings(derandomize=True, deadline=None, max_examples=30)
seeds = st.integers(0, 10**6)
spacings = st.sampled_from([ISOTROPIC, (5.0, 0.7, 0.7), (0.8, 1.2, 2.5), (3.0, 0.78125, 0.78125)])


def blobs(seed: int, shape: tuple[int, ...] = (9, 12, 14)) -> tuple[Mask, Mask]:
    """Two overlapping random shapes of several parts, with holes, that may touch the borders."""
    rng = np.random.default_rng(seed)
    common, *own = (gaussian_filter(rng.standard_normal(shape), 1.5) for _ in range(3))
    first, second = (common + 0.5 * field for field in own)
    return first > np.quantile(first, 0.8), second > np.quantile(second, 0.75)


def cube(start: int = 2, size: int = 3) -> Mask:
    mask = np.zeros((10, 10, 10), bool)
    mask[start : start + size, 2:5, 2:5] = True
    return mask


def deepmind(a: Mask, b: Mask, spacing: Spacing, tolerance: float) -> float:
    with warnings.catch_warnings():
        # It still takes scipy's functions from their old places.
        warnings.simplefilter("ignore", DeprecationWarning)
        distances = compute_surface_distances(a, b, spacing)
    return float(compute_surface_dice_at_tolerance(distances, tolerance))


def monai(
    measure: Callable[..., torch.Tensor], a: Mask, b: Mask, spacing: Spacing, **options: Any
) -> float:
    first, second = (torch.tensor(mask)[None, None] for mask in (a, b))
    with warnings.catch_warnings():
        # It calls a function of its own in a way that it deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        found = measure(first, second, include_background=True, spacing=spacing, **options)
    return found.item()


@quick
@given(seeds, spacings, st.floats(0, 6))
def test_surface_dice_is_deepminds(seed: int, spacing: Spacing, tolerance: float) -> None:
    a, b = blobs(seed)
    found = surface_dice(a, b, spacing, tolerance)
    assert found == pytest.approx(deepmind(a, b, spacing, tolerance), abs=1e-6)


@pytest.mark.parametrize("spacing", [ISOTROPIC, (0.1, 0.7, 0.3), (5.0, 0.78125, 0.78125)])
def test_a_distance_that_equals_the_tolerance_counts_as_deepminds_does(spacing: Spacing) -> None:
    a, b = blobs(3)
    for steps in [(1, 0, 0), (0, 3, 0), (0, 0, 3), (0, 1, 1), (2, 1, 0)]:
        tolerance = float(np.sqrt(((np.array(steps) * spacing) ** 2).sum()))
        found = surface_dice(a, b, spacing, tolerance)
        assert found == pytest.approx(deepmind(a, b, spacing, tolerance), abs=1e-6)


@quick
@given(seeds, spacings)
def test_hausdorff95_is_monais(seed: int, spacing: Spacing) -> None:
    a, b = blobs(seed)
    theirs = monai(compute_hausdorff_distance, a, b, spacing, percentile=95)
    # The rank of its percentile is rounded to float32.
    assert hausdorff95(a, b, spacing) == pytest.approx(theirs, abs=5e-5)


@quick
@given(seeds, spacings)
def test_average_surface_distance_is_monais(seed: int, spacing: Spacing) -> None:
    a, b = blobs(seed)
    theirs = monai(compute_average_surface_distance, a, b, spacing, symmetric=True)
    assert average_surface_distance(a, b, spacing) == pytest.approx(theirs, rel=1e-6)


@quick
@given(seeds, spacings)
def test_neither_order_nor_frame_matters(seed: int, spacing: Spacing) -> None:
    a, b = blobs(seed)
    wide_a, wide_b = (np.pad(mask, ((3, 0), (0, 5), (2, 2))) for mask in (a, b))
    turned_a, turned_b = (mask.transpose(2, 0, 1) for mask in (a, b))
    for measure in MEASURES:
        found = measure(a, b, spacing)
        assert measure(b, a, spacing) == pytest.approx(found)
        assert measure(wide_a, wide_b, spacing) == pytest.approx(found)
        assert measure(turned_a, turned_b, (spacing[2], *spacing[:2])) == pytest.approx(
            found, rel=1e-6
        )


@quick
@given(seeds, spacings, st.floats(0.1, 10))
def test_distances_grow_with_the_scan_and_surface_dice_does_not(
    seed: int, spacing: Spacing, factor: float
) -> None:
    a, b = blobs(seed)
    larger = (spacing[0] * factor, spacing[1] * factor, spacing[2] * factor)
    for measure in (hausdorff95, average_surface_distance):
        assert measure(a, b, larger) == pytest.approx(factor * measure(a, b, spacing))
    # Between two possible distances, so that rounding decides nothing.
    tolerance = 1.0107 * min(spacing)
    assert surface_dice(a, b, larger, factor * tolerance) == pytest.approx(
        surface_dice(a, b, spacing, tolerance), abs=1e-6
    )


def test_surface_dice_rises_with_the_tolerance_up_to_1() -> None:
    a, b = blobs(7)
    found = [surface_dice(a, b, ISOTROPIC, t) for t in (0, 0.5, 1, 1.5, 2, 3, 30)]
    assert found == sorted(found)
    assert 0 < found[0] < found[2] < 1
    assert found[-1] == 1


def test_a_shifted_cube_by_hand() -> None:
    """A cube of 3 voxels, moved by 2 along an axis of 2.5 mm."""
    spacing = (2.5, 1.0, 1.0)
    a, b = cube(2), cube(4)
    # Slices of 9, 8 and 9 boundary voxels; the last is the other cube's first.
    depths = np.repeat([5.0, 2.5, 0.0], [9, 8, 9])
    assert hausdorff95(a, b, spacing) == np.percentile(depths, 95) == 5
    assert average_surface_distance(a, b, spacing) == pytest.approx(depths.mean())


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_masks_are_perfect(measure: Measure) -> None:
    for mask in (*blobs(1), np.ones((3, 4, 5), bool), cube(2, 1)):
        assert measure(mask, mask, (3.0, 0.7, 0.7)) == (1 if measure is MEASURES[2] else 0)


def test_empty_masks() -> None:
    full, none = cube(), np.zeros((10, 10, 10), bool)
    for a, b in ((full, none), (none, full)):
        assert surface_dice(a, b, ISOTROPIC, 100.0) == 0
        assert hausdorff95(a, b, ISOTROPIC) == math.inf
        assert average_surface_distance(a, b, ISOTROPIC) == math.inf
    assert surface_dice(none, none, ISOTROPIC, 1.0) == 1
    assert hausdorff95(none, none, ISOTROPIC) == average_surface_distance(none, none, ISOTROPIC)
    assert hausdorff95(none, none, ISOTROPIC) == 0


def test_the_challenges_tolerances_belong_to_masks() -> None:
    assert list(KITS21_TOLERANCES_MM) == ["kidney", "kidney_masses", "kidney_tumor"]
    assert set(GROUPS["kidney_masses"]) == {"kidney_tumor", "kidney_cyst"}
    assert [round(mm, 3) for mm in KITS21_TOLERANCES_MM.values()] == [1.033, 1.133, 1.15]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("other", "spacing", "message"),
    [
        (np.zeros((10, 10, 9), bool), ISOTROPIC, r"\(10, 10, 9\)"),
        (np.zeros((10, 10, 10), np.uint8), ISOTROPIC, "uint8"),
        (cube(), (1.0, 1.0), "spacing"),
        (cube(), (1.0, 0.0, 1.0), "spacing"),
        (cube(), (1.0, 1.0, math.nan), "spacing"),
    ],
)
def test_wrong_input_is_refused(
    measure: Measure, other: Mask, spacing: Spacing, message: str
) -> None:
    with pytest.raises(BadParameter, match=message):
        measure(cube(), other, spacing)


@pytest.mark.parametrize("tolerance", [-0.1, math.inf, math.nan])
def test_a_wrong_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(BadParameter, match="tolerance_mm"):
        surface_dice(cube(), cube(), ISOTROPIC, tolerance)
