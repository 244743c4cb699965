"""Dice and volumes by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice

from training.metrics import (
    dice,
    judgeable,
    mask_of,
    scorable,
    volume_error_ml,
)


def test_dice_by_hand() -> None:
    a, b = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert dice(a, b) == 0.5
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert dice(a & ~a, b & ~b) == 1
    assert dice(a, b & ~b) == 0


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.05, 0.9))
def test_dice_is_monais(seed: int, density: float) -> None:
    a, b = np.random.default_rng(seed).random((2, 5, 6, 7)) < density
    theirs = compute_dice(torch.tensor(a)[None, None], torch.tensor(b)[None, None])
    assert dice(a, b) == pytest.approx(theirs.item(), abs=1e-6)


def test_volumes_by_hand() -> None:
    truth = np.zeros((10, 10, 10), bool)
    truth[:4] = True
    predicted = np.zeros_like(truth)
    predicted[2:5] = True
    # 300 and 400 voxels of 2 x 1 x 0.5 mm.
    assert volume_error_ml(predicted, truth, (2.0, 1.0, 0.5)) == pytest.approx(-0.1)
    assert volume_error_ml(truth, predicted, (2.0, 1.0, 0.5)) == pytest.approx(0.1)


def test_the_volume_of_nothing() -> None:
    full = np.ones((2, 2, 2), bool)
    assert volume_error_ml(full, ~full, (10.0, 10.0, 10.0)) == 8


def test_an_organs_mask_holds_its_lesions() -> None:
    labels = np.array([0, 1, 2, 3, 4, 5, 6], np.uint8)
    assert mask_of(labels, "pancreas").tolist() == [False, True, True] + [False] * 4
    assert np.flatnonzero(mask_of(labels, "kidney")).tolist() == [3, 4, 5]
    assert np.flatnonzero(mask_of(labels, "kidney_tumor")).tolist() == [4]


def test_only_what_labels_can_judge_is_scored() -> None:
    outputs = ("pancreas", "pancreas_tumor", "kidney")
    assert scorable(outputs, ("kidney", "liver", "pancreas")) == ("pancreas", "kidney")
    assert scorable(outputs, ("spleen",)) == ()


def test_what_is_predicted_where_nobody_knows_is_neither_right_nor_wrong() -> None:
    predicted = np.array([3, 3, 1, 0], np.uint8)
    assert judgeable(predicted, np.array([3, 255, 255, 0], np.uint8)).tolist() == [3, 0, 0, 0]
    assert judgeable(predicted, np.array([3, 0, 1, 0], np.uint8)) is predicted
    assert predicted.tolist() == [3, 3, 1, 0]
