"""Behind a cancer the duct is wide and the gland thin; before it nothing changes."""

from __future__ import annotations

import numpy as np

from models.labels import BY_NAME
from tests.training.planting.scene import ball
from training.planting.pancreas import course, draw_upstream

SPACING = (2.0, 2.0, 2.0)
GLAND, CANCER = BY_NAME["pancreas"].value, BY_NAME["pancreas_tumor"].value


def bent() -> np.ndarray:
    """A gland that goes up, then left."""
    gland = np.zeros((40, 24, 80), np.bool_)
    gland[4:34, 7:17, 8:18] = True
    gland[24:34, 7:17, 8:74] = True
    return gland


def test_the_course_keeps_to_the_middle_and_ends_in_the_tail() -> None:
    path = course(bent(), SPACING, np.array([10.0, 24.0, 26.0]))
    assert np.allclose(path[0], (10, 24, 26), atol=8)
    assert path[-1, 2] > 2 * 68
    middle = path[(path[:, 2] > 56) & (path[:, 2] < 130)]
    assert np.abs(middle[:, 0] - 2 * 28.5).max() < 5
    assert np.abs(middle[:, 1] - 2 * 11.5).max() < 5


def test_only_the_gland_behind_the_cancer_changes() -> None:
    labels = bent().astype(np.uint8) * GLAND
    labels[ball(labels.shape, (29, 12, 30), (5, 5, 5))] = CANCER
    hu = np.where(labels > 0, 100, -100).astype(np.int16)
    changed = 0
    for seed in range(6):
        new, marked = hu.copy(), labels.copy()
        draw_upstream(new, marked, SPACING, (29, 12, 30), np.random.default_rng(seed))
        if (new == hu).all():
            continue
        changed += 1
        assert (new[..., :22] == hu[..., :22]).all()
        assert (new[labels == 0] == -100).all()
        assert (marked[labels == CANCER] == CANCER).all()
        assert set(np.unique(marked[marked != labels])) <= {0}
        # The duct: dark in the middle of the gland, all along it.
        assert (new[28:30, 11:13, 38:64].min((0, 1)) < 60).mean() > 0.8
    assert changed >= 2


def test_a_cancer_in_the_tail_has_nothing_behind_it() -> None:
    labels = bent().astype(np.uint8) * GLAND
    labels[ball(labels.shape, (29, 12, 70), (5, 5, 5))] = CANCER
    hu = np.where(labels > 0, 100, -100).astype(np.int16)
    for seed in range(6):
        new, marked = hu.copy(), labels.copy()
        draw_upstream(new, marked, SPACING, (29, 12, 70), np.random.default_rng(seed))
        assert (new == hu).all()
        assert (marked == labels).all()
