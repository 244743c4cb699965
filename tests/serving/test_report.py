"""Report numbers against ones counted by hand or by the slow, obvious way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imaging.geometry import Geometry
from serving.report import describe, extents, orientation, total

LPS = np.eye(3)[:, ::-1]


def test_numbers_of_a_box_are_those_counted_by_hand() -> None:
    labels = np.zeros((4, 6, 8), np.uint8)
    labels[1:3, 2:5, 4:8] = 7
    geometry = Geometry(labels.shape, (5.0, 2.0, 1.0), (10.0, 20.0, 30.0), LPS)

    found = describe(extents(labels)[7], geometry)

    # 2 x 3 x 4 voxels of 10 mm3; middles at z 1.5, y 3, x 5.5.
    assert found == {
        "found": True,
        "voxels": 24,
        "volume_ml": 0.24,
        "centroid_lps_mm": [10 + 5.5, 20 + 2 * 3, 30 + 5 * 1.5],
        "bounding_box": {"start": [1, 2, 4], "stop": [3, 5, 8]},
        "touches_edge": ["left"],
    }


def test_an_absent_structure_has_no_place() -> None:
    geometry = Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), LPS)
    found = describe(total({}, [3]), geometry)
    assert (found["voxels"], found["centroid_lps_mm"], found["bounding_box"]) == (0, None, None)
    assert found["touches_edge"] == []


@settings(derandomize=True, max_examples=60)
@given(arrays(np.uint8, (3, 4, 5), elements=st.sampled_from([0, 0, 0, 1, 2, 255])))
def test_extents_agree_with_argwhere(labels: np.ndarray) -> None:
    found = extents(labels)
    assert set(found) == set(np.unique(labels)) - {0}
    for value, extent in found.items():
        where = np.argwhere(labels == value)
        assert extent.voxels == len(where)
        assert extent.sums == tuple(where.sum(axis=0))
        assert extent.start == tuple(where.min(axis=0))
        assert extent.stop == tuple(where.max(axis=0) + 1)
    both = np.argwhere((labels == 1) | (labels == 2))
    union = total(found, [1, 2])
    assert union.voxels == len(both)
    assert union.sums == tuple(both.sum(axis=0))


@pytest.mark.parametrize(
    ("axes", "flips", "code"),
    [
        ((0, 1, 2), (False, False, False), "LPS"),
        ((0, 1, 2), (False, True, True), "RAS"),
        ((1, 0, 2), (True, False, False), "LSA"),
    ],
)
def test_orientation_names_the_ways_x_y_and_z_run(
    axes: tuple[int, ...], flips: tuple[bool, ...], code: str
) -> None:
    plain = Geometry((3, 4, 5), (1, 1, 1), (0, 0, 0), LPS)
    assert orientation(plain.transposed(axes, flips)) == code


@settings(derandomize=True, max_examples=40)
@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
def test_storage_order_changes_nothing_in_the_patient(
    axes: list[int], flips: tuple[bool, bool, bool]
) -> None:
    labels = np.zeros((4, 6, 8), np.uint8)
    labels[0:2, 2:5, 7:8] = 3
    geometry = Geometry(labels.shape, (5.0, 2.0, 1.0), (10.0, 20.0, 30.0), LPS)
    stored = labels.transpose(axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]

    plain = describe(extents(labels)[3], geometry)
    turned = describe(extents(stored)[3], geometry.transposed(axes, flips))

    for key in ("voxels", "volume_ml", "touches_edge"):
        assert turned[key] == plain[key]
    assert turned["centroid_lps_mm"] == pytest.approx(plain["centroid_lps_mm"], abs=0.011)
    assert plain["touches_edge"] == ["inferior", "left"]
