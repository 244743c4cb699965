"""Published label names, nnU-Net's regions among them, become Islet's structures."""

from __future__ import annotations

from typing import Any

import pytest

from training.datasets.names import structures
from training.datasets.nnunet import label_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({1: "pancreas", 2: "cancer"}, {1: "pancreas", 2: "pancreas_tumor"}),
        ({1: "Kidney", 2: "Tumour"}, {1: "kidney", 2: "kidney_tumor"}),
        (
            {1: "kidney", 2: "tumor", 3: "cyst"},
            {1: "kidney", 2: "kidney_tumor", 3: "kidney_cyst"},
        ),
        ({1: "right kidney", 2: "kidney_left", 3: "aorta"}, {1: "kidney", 2: "kidney"}),
        ({1: "Spleen", 4: "oesophagus"}, {1: "spleen", 4: "esophagus"}),
        ({1: "gall bladder", 2: "lung_upper_lobe_left"}, {1: "gallbladder", 2: "lung"}),
        ({1: "liver", 2: "cancer"}, {1: "liver", 2: "liver_tumor"}),
        ({1: "liver", 2: "vessel"}, {1: "liver", 2: "hepatic_vessel"}),
        ({1: "hepatic_vessel", 2: "tumor"}, {1: "hepatic_vessel", 2: "liver_tumor"}),
        # Lesions that Islet has no name for are their organ, not background.
        ({1: "spleen", 2: "cancer"}, {1: "spleen", 2: "spleen"}),
        ({1: "liver", 2: "cyst"}, {1: "liver", 2: "liver"}),
        # Only one of these organs has tumors in Islet.
        ({1: "colon", 2: "spleen", 3: "mass"}, {1: "colon", 2: "spleen", 3: "colon_tumor"}),
        # Whose tumor is it? Nobody's, rather than a wrong one.
        ({1: "pancreas", 2: "kidney", 3: "tumor"}, {1: "pancreas", 2: "kidney"}),
        ({1: "vessel", 2: "tumour"}, {}),
        ({1: "left adrenal gland", 2: "bladder", 3: "prostate/uterus"}, {}),
    ],
)
def test_names(names: dict[int, str], expected: dict[int, str]) -> None:
    assert structures(names) == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Lung", {1: "lung_tumor"}),
        ("Dataset006_Lung", {1: "lung_tumor"}),
        ("Colon", {1: "colon_tumor"}),
        ("BRATS", {}),
        ("liver and kidney", {}),
    ],
)
def test_the_title_tells_whose_lesion_it_is(title: str, expected: dict[int, str]) -> None:
    assert structures({1: "cancer"}, title) == expected


def test_the_title_does_not_outweigh_the_labels() -> None:
    assert structures({1: "liver", 2: "tumor"}, "Lung")[2] == "liver_tumor"


def test_hepatic_vessels() -> None:
    named = structures({1: "Vessel", 2: "Tumour"}, "HepaticVessel")
    assert named == {1: "hepatic_vessel", 2: "liver_tumor"}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (
            {"background": 0, "whole_kidney": [1, 2, 3], "mass": [2, 3], "tumor": 2},
            {1: "kidney", 2: "kidney_tumor", 3: "kidney_cyst"},
        ),
        (
            {"tumor": [2], "masses": [2, 3], "kidney": [1, 2, 3]},
            {1: "kidney", 2: "kidney_tumor", 3: "kidney_cyst"},
        ),
        (
            {"background": 0, "pancreas": [1, 2], "tumor": 2},
            {1: "pancreas", 2: "pancreas_tumor"},
        ),
        ({"background": 0, "kidney": [1, 2], "masses": [2]}, {1: "kidney", 2: "kidney_tumor"}),
        ({"pancreas": 1, "kidney": 3, "both": [1, 3]}, {1: "pancreas", 3: "kidney"}),
        ({"everything": [0, 1], "spleen": 1}, {1: "spleen"}),
    ],
)
def test_a_value_means_the_smallest_region(
    labels: dict[str, Any], expected: dict[int, str]
) -> None:
    assert structures(label_names(labels)) == expected
