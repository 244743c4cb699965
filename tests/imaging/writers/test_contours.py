"""Outlines hold the pixels they were drawn around, and no other, by any rule of filling."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imaging.writers.contours import outlines
from tests.imaging.dicom_outputs import inside_by_crossings, inside_by_winding

masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(masks)
def test_every_rule_fills_the_mask(mask: np.ndarray) -> None:
    polygons = list(outlines(mask))
    for fill in (inside_by_crossings, inside_by_winding):
        filled = [fill(polygon, mask.shape) for polygon in polygons]
        covered = np.sum(filled, axis=0) if filled else np.zeros(mask.shape, int)
        # Once each: readers that add contours and readers that take turns agree.
        np.testing.assert_array_equal(covered, mask.astype(int))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(masks)
def test_vertices_are_half_way_and_corners(mask: np.ndarray) -> None:
    for polygon in outlines(mask):
        halves = polygon * 2
        np.testing.assert_array_equal(halves, np.rint(halves))
        np.testing.assert_array_equal((halves % 2).sum(axis=1), 1)
        before, after = polygon - np.roll(polygon, 1, 0), np.roll(polygon, -1, 0) - polygon
        straight = before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]
        assert not (straight & ((before * after).sum(axis=1) >= 0)).any()


def test_a_ring_is_one_polygon_with_a_bridge_of_no_width() -> None:
    mask = np.ones((7, 9), bool)
    mask[2:5, 2:4] = mask[3, 6] = False
    (ring,) = outlines(mask)
    leading = {(tuple(a), tuple(b)) for a, b in zip(ring, np.roll(ring, -1, 0), strict=True)}
    there_and_back = [(a, b) for a, b in leading if (b, a) in leading]
    assert len(there_and_back) == 4
    assert all(a[0] == b[0] for a, b in there_and_back)


def test_parts_are_polygons_of_their_own() -> None:
    mask = np.zeros((9, 9), bool)
    mask[0:2, 0:2] = mask[5:9, 5:9] = True
    corner, block = sorted(map(len, outlines(mask)))
    assert (corner, block) == (8, 8)


def test_an_empty_mask_has_none() -> None:
    assert list(outlines(np.zeros((4, 5), bool))) == []
