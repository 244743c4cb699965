"""Which series the shipped rules take, and the names of the rules that others fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from imaging.errors import BadParameter, NoSuitableSeries
from serving.pacs.rules import SHIPPED, Rules, Series, choose, load_rules

GOOD = Series(
    "1.1",
    modality="CT",
    body_part="ABDOMEN",
    description="Abdomen 3.0 portal venous",
    kernel="B30f",
    manufacturer="Maker",
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    slices=120,
    instances=120,
    thickness_mm=3.0,
    spacing_mm=3.0,
    tilt=0.0,
)


@pytest.fixture(scope="module")
def rules() -> Rules:
    return load_rules()


def as_they_are(series: Series) -> Series:
    return series


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"modality": "MR"}, "modality"),
        ({"manufacturer": "Islet"}, "made_here"),
        ({"slices": 3}, "slices"),
        ({"slices": 9000}, "slices"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "image_type"),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "image_type"),
        ({"image_type": ("DERIVED", "SECONDARY", "SCREEN SAVE")}, "image_type"),
        ({"body_part": "HEAD"}, "body_part"),
        ({"tilt": 90.0}, "orientation"),
        ({"thickness_mm": 20.0}, "slice_mm"),
        ({"spacing_mm": 0.1}, "slice_mm"),
        ({"description": "Topogram 0.6"}, "description"),
        ({"description": "ABD_MIP_ax"}, "description"),
        ({"description": "cor abdomen"}, "description"),
        ({"description": "Lung 1.0"}, "description"),
        ({"description": "Dose Report"}, "description"),
        ({"kernel": "B70f"}, "kernel"),
        ({"kernel": "I70f\\3"}, "kernel"),
        ({"kernel": "LUNG"}, "kernel"),
        ({"kernel": "FC52"}, "kernel"),
    ],
)
def test_a_series_that_fails_is_told_the_rule(rules: Rules, changes: dict, rule: str) -> None:
    assert rules.refusal(replace(GOOD, **changes)) == rule


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"body_part": "Abd_Pelv"},
        {"body_part": "chest/abd/pelvis"},
        {"image_type": ("DERIVED", "PRIMARY", "AXIAL")},
        {"description": "Thorax Abdomen ven 5.0 I40f"},
        {"description": "Decor"},
        {"kernel": "FC08"},
        {"kernel": "Br40d\\3"},
        {"tilt": 12.0},
    ],
)
def test_a_series_that_passes(rules: Rules, changes: dict) -> None:
    assert rules.refusal(replace(GOOD, **changes)) is None


def test_what_is_unknown_fails_nothing(rules: Rules) -> None:
    assert rules.refusal(Series("1.1")) is None


def test_venous_words_come_first_then_thin_slices_then_many(rules: Rules) -> None:
    arterial = replace(GOOD, uid="1.2", description="arterial", thickness_mm=1.0)
    thin = replace(GOOD, uid="1.3", thickness_mm=1.0, slices=200)
    longer = replace(thin, uid="1.4", slices=400)
    order = [arterial, GOOD, thin, longer]
    for best in (longer, thin, GOOD, arterial):
        found = choose(rules, order, as_they_are)
        assert found.series == best
        assert found.rejected == {s.uid: "less_preferred" for s in order if s != best}
        order.remove(best)


def test_equals_are_told_apart_the_same_way_every_time(rules: Rules) -> None:
    twin = replace(GOOD, uid="1.0")
    for order in ([GOOD, twin], [twin, GOOD]):
        assert choose(rules, order, as_they_are).series == twin


def test_only_what_passes_so_far_is_looked_into(rules: Rules) -> None:
    looked: list[str] = []

    def look(series: Series) -> Series:
        looked.append(series.uid)
        return replace(series, kernel="B70f")

    other = replace(GOOD, uid="1.2", modality="SR")
    with pytest.raises(NoSuitableSeries) as caught:
        choose(rules, [other, GOOD], look)
    assert looked == ["1.1"]
    assert caught.value.details["rejected"] == [
        {"series": "1.2", "rule": "modality"},
        {"series": "1.1", "rule": "kernel"},
    ]


def test_rules_of_a_hospital_replace_those_that_ship(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(
        '[require]\nmodality = ["CT"]\ninclude = ["islet"]\nslices = [2, 10]\n'
        '[prefer]\norder = ["slices"]\n'
    )
    rules = load_rules(path)
    few = replace(GOOD, slices=8, body_part="HEAD", tilt=80.0)
    assert rules.refusal(few) == "include"
    assert rules.refusal(replace(few, description="for ISLET")) is None
    assert rules.refusal(GOOD) == "slices"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("slices = [15, 4000]", "slices = [4000, 15]", "least and most"),
        ("slices = [15, 4000]", "slides = [15, 4000]", "unknown key 'slides'"),
        ("include = []", "include = ['(']", "broken pattern"),
        ('order = ["words"', 'order = ["beauty"', "orders by 'beauty'"),
        ("[require]", "[require", "cannot be read"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = SHIPPED.read_text()
    assert old in text
    path = tmp_path / "rules.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(BadParameter, match=says):
        load_rules(path)


def test_a_classic_header_is_understood() -> None:
    header = Dataset()
    header.SeriesInstanceUID, header.Modality = "1.2", "CT"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    header.SliceThickness, header.ConvolutionKernel = "2.5", ["I40f", "3"]
    series = Series.of(header, 12)
    assert (series.slices, series.instances, series.thickness_mm) == (12, 12, 2.5)
    assert (series.kernel, series.image_type[2]) == ("I40f\\3", "AXIAL")
    assert series.tilt == pytest.approx(90.0)


def test_an_enhanced_header_counts_frames_and_has_its_plane_inside() -> None:
    plane, measures, shared, header = (Dataset() for _ in range(4))
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.SliceThickness = 1.5
    shared.PlaneOrientationSequence = Sequence([plane])
    shared.PixelMeasuresSequence = Sequence([measures])
    header.SeriesInstanceUID, header.NumberOfFrames = "1.2", 80
    header.SharedFunctionalGroupsSequence = Sequence([shared])
    series = Series.of(header, 2)
    assert (series.slices, series.instances, series.thickness_mm) == (160, 2, 1.5)
    assert series.tilt == pytest.approx(0.0)


def test_broken_values_are_unknown_ones() -> None:
    header = Dataset()
    header.SeriesInstanceUID = "1.2"
    header.ImageOrientationPatient = [0, 0, 0, 0, 0, 0]
    series = Series.of(header)
    assert (series.tilt, series.slices, series.thickness_mm) == (None, None, None)
