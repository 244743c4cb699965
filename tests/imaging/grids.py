"""Grids for property tests: oblique ones, and every way to store an array."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from hypothesis import strategies as st

from imaging.geometry import Geometry
from imaging.volume import Volume

# All 48: which axis comes first, second, third, and which are then reversed.
STORAGE_ORDERS = [
    (axes, flips) for axes in permutations(range(3)) for flips in product((False, True), repeat=3)
]
# Array order (S, P, L): the direction that needs no turning.
CANONICAL = np.eye(3)[:, ::-1]

angles = st.floats(-180, 180)
spacings = st.tuples(*[st.floats(0.2, 8)] * 3)
origins = st.tuples(*[st.floats(-1000, 1000)] * 3)
shapes = st.tuples(*[st.integers(2, 9)] * 3)


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """3x3 of three turns in degrees about the L, P and S axes."""
    result = np.eye(3)
    for axis, angle in enumerate((x, y, z)):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        result = turn @ result
    return result


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any grid: oblique, and mirrored as often as not."""
    axes, flips = draw(st.sampled_from(STORAGE_ORDERS))
    turned = rotation(*(draw(angles) for _ in range(3)))[:, list(axes)]
    return Geometry(
        draw(shapes), draw(spacings), draw(origins), turned * np.where(flips, -1.0, 1.0)
    )


def stored_as(volume: Volume, order: tuple[tuple[int, ...], tuple[bool, ...]]) -> Volume:
    """The same voxels at the same places, in another order of the array's axes.

    Written with an affine of its own, not with the code under test.
    """
    axes, flips = order
    array = volume.array.transpose(axes)
    affine = volume.geometry.affine[:, [*axes, 3]]
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
            affine[:, axis] *= -1
    geometry, warnings = Geometry.from_affine(array.shape, affine)
    assert not warnings
    return Volume(np.ascontiguousarray(array), geometry)
