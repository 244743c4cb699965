"""The outline of a mask: polygons half-way between the pixels inside and those outside."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

from imaging.geometry import Float


def outlines(mask: NDArray[np.bool_]) -> Iterator[Float]:
    """Polygons around what a mask holds, in fractional pixels.

    Vertices lie half-way between the centres of a pixel inside and one outside. So every pixel's
    centre inside a polygon is one of the mask, whichever rule fills it, and none other is. A part
    with holes is one polygon: a bridge of no width leads along a row of pixels from each hole to
    what lies left of it ("keyhole"), as PS3.3 C.8.8.6.3 has it for CLOSED_PLANAR.

    Args:
        mask: (Y, X).

    Yields:
        (N, 2) vertices (y, x), one polygon for each part of the mask; the last vertex leads back
        to the first.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    corner = np.array([rows[0], columns[0]])
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # An empty margin closes what touches the image's edge.
    drawn = contour_generator(z=np.pad(inside, 1), fill_type=FillType.OuterOffset)
    for points, offsets in zip(*drawn.filled(0.5, np.inf), strict=True):
        loops = [points[a : b - 1, ::-1] for a, b in pairwise(offsets)]
        yield _corners(_keyholed(loops)) + (corner - 1)


def _keyholed(loops: list[Float]) -> Float:
    """One polygon of an outer loop and the holes in it, each without its first vertex again."""
    polygon = loops[0]
    # From left to right, so that whatever a bridge may end at is part of the polygon by then.
    for hole in sorted(loops[1:], key=lambda loop: float(loop[:, 1].min())):
        start = int(hole[:, 1].argmin())
        y, x = hole[start]
        # The leftmost vertex lies on a row of pixels, where every border has a vertex.
        met = np.flatnonzero((polygon[:, 0] == y) & (polygon[:, 1] < x))
        end = int(met[polygon[met, 1].argmax()])
        around = np.concatenate([hole[start:], hole[: start + 1]])
        polygon = np.concatenate([polygon[: end + 1], around, polygon[end:]])
    return polygon


def _corners(polygon: Float) -> Float:
    """The polygon without vertices on a straight way; halves are exact, so it is the same."""
    before = polygon - np.roll(polygon, 1, axis=0)
    after = np.roll(polygon, -1, axis=0) - polygon
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    back = (before * after).sum(axis=1) < 0
    kept: Float = polygon[(turn != 0) | back]
    return kept
