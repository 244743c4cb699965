"""Dice by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics import dice, dice_by_mask, mask_of, scorable


def test_dice_by_hand() -> None:
    a, b = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert dice(a, b) == 0.5
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert dice(a & ~a, b & ~b) == 1
    assert dice(a, b & ~b) == 0


def test_an_organs_mask_holds_its_lesions() -> None:
    labels = np.array([0, 1, 2, 3, 4, 5, 6], np.uint8)
    assert mask_of(labels, "pancreas").tolist() == [False, True, True] + [False] * 4
    assert np.flatnonzero(mask_of(labels, "kidney")).tolist() == [3, 4, 5]
    assert np.flatnonzero(mask_of(labels, "kidney_tumor")).tolist() == [4]


def test_scores_by_mask() -> None:
    truth = np.array([1, 1, 3, 3, 0], np.uint8)
    found = np.array([1, 2, 4, 0, 0], np.uint8)
    scores = dice_by_mask(found, truth, ("pancreas", "kidney", "pancreas_tumor"))
    assert scores == {"pancreas": 1.0, "kidney": pytest.approx(2 / 3), "pancreas_tumor": 0.0}


def test_only_what_labels_can_judge_is_scored() -> None:
    outputs = ("pancreas", "pancreas_tumor", "kidney")
    assert scorable(outputs, ("kidney", "liver", "pancreas")) == ("pancreas", "kidney")
    assert scorable(outputs, ("spleen",)) == ()
