"""What counts as found, and what is counted where nothing was planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.assess.boxes import HIDDEN, SEEN, bench, plant
from training.assess import planted
from training.assess.planted import Rate, by_size, overlap, parts_ml, size_names, targets


@pytest.fixture(autouse=True)
def _planting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted, "plant_copy", plant)


def test_one_is_found_one_is_missed_and_one_is_there_untouched(tmp_path: Path) -> None:
    judged = bench(tmp_path)
    figures = planted.measure(judged, None, copies=2, seed=0)  # type: ignore[arg-type]
    seen, hidden, *again = figures["lesions"]
    assert [x["copy"] for x in figures["lesions"]] == [0, 0, 1, 1]
    assert [x["found"] for x in again] == [True, False]
    assert (seen["covered"], seen["dice"], seen["found"], seen["already"]) == (1, 1, True, False)
    assert (hidden["covered"], hidden["dice"], hidden["found"]) == (0, 0, False)
    assert seen["any_found"] is True
    # The box of 3 x 4 x 4 voxels at 0 HU that the labels call pancreas.
    voxel = judged.loaded.image.geometry.voxel_ml
    assert figures["untouched"] == {"pancreas_tumor": [pytest.approx(48 * voxel)]}


def test_what_was_predicted_before_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = np.s_[6:9, 8:12, 10:14]
    monkeypatch.setattr("tests.training.assess.boxes.SEEN", there)
    lesion = planted.measure(bench(tmp_path), None, copies=1, seed=0)["lesions"][0]  # type: ignore[arg-type]
    assert (lesion["covered"], lesion["already"], lesion["found"]) == (1, True, False)
    assert lesion["any_found"] is False


def test_targets_are_the_parts_that_the_centres_lie_in(tmp_path: Path) -> None:
    masks = [mask for _, mask in targets(plant(bench(tmp_path)))]
    for mask, box in zip(masks, (SEEN, HIDDEN), strict=True):
        wanted = np.zeros_like(mask)
        wanted[box] = True
        np.testing.assert_array_equal(mask, wanted)


def test_overlap_counts_whole_predicted_parts_that_touch() -> None:
    target, predicted = np.zeros((2, 8, 20, 20), bool)
    target[2:4, 2:4, 2:4] = True
    predicted[2:4, 2:4, 3:7] = True
    predicted[6, 15, 15] = True
    assert overlap(target, predicted) == (0.5, 2 * 4 / (8 + 16))
    assert overlap(target, np.zeros_like(target)) == (0.0, 0.0)


def test_parts_are_connected_by_corners_and_sorted() -> None:
    mask = np.zeros((4, 8, 8), bool)
    mask[0, 0, 0] = mask[1, 5, 5] = mask[2, 6, 6] = True
    assert parts_ml(mask, 0.5) == [1.0, 0.5]
    assert parts_ml(np.zeros_like(mask), 0.5) == []


def test_wilsons_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17, Table I: 81 of 263, method 3.
    low, high = Rate(81, 263).interval
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert Rate(0, 0).interval == (0.0, 1.0)
    assert Rate(3, 4).share == 0.75


def test_rates_by_size_have_every_lesion_once() -> None:
    assert size_names() == ["under 1 cm", "1 to 2 cm", "2 to 3 cm", "3 to 5 cm", "over 5 cm"]
    sizes = (9.9, 10.0, 25.0, 49.0, 50.0, 120.0)
    lesions: list[dict[str, Any]] = [
        {"kind": "kidney_tumor", "diameter_mm": mm, "found": mm > 20} for mm in sizes
    ]
    lesions.append({"kind": "kidney_cyst", "diameter_mm": 5.0, "found": True})
    rates = by_size(lesions)
    tumors = [rates["kidney_tumor"][name] for name in (*size_names(), "all")]
    assert tumors == [Rate(0, 1), Rate(0, 1), Rate(1, 1), Rate(1, 1), Rate(2, 2), Rate(4, 6)]
    assert rates["all"]["under 1 cm"] == Rate(1, 2)
    assert rates["all"]["all"] == Rate(5, 7)
    assert "pancreas_tumor" not in rates
