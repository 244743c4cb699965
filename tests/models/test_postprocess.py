from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from imaging.errors import BadManifest
from models.labels import BY_NAME
from models.manifest import Cleanup
from models.postprocess import clean, decide, label_values
from tests.models.manifests import manifest

KIDNEY, TUMOR, CYST = (BY_NAME[n].value for n in ("kidney", "kidney_tumor", "kidney_cyst"))
LIVER = BY_NAME["liver"].value


def test_softmax_takes_the_greatest_channel() -> None:
    made = manifest(outputs=("liver", "kidney"))
    assert label_values(made).tolist() == [0, LIVER, KIDNEY]
    scores = np.array([[5, 1, -3.0, 2], [4, 2, -2, 2], [3, 0, -1, 2]]).reshape(3, 1, 2, 2)
    labels = decide(scores, made)
    assert labels.dtype == np.uint8
    assert labels.ravel().tolist() == [0, LIVER, KIDNEY, 0]


def test_sigmoid_takes_the_last_channel_over_one_half() -> None:
    made = manifest(outputs=("kidney", "kidney_tumor"), activation="sigmoid")
    assert label_values(made).tolist() == [KIDNEY, TUMOR]
    scores = np.array([[-1.0, 3, 3, -1, 0], [-1, -1, 1, 2, 0]]).reshape(2, 1, 1, 5)
    assert decide(scores, made).ravel().tolist() == [0, KIDNEY, TUMOR, TUMOR, 0]


def line(text: str) -> np.ndarray:
    """A label map from a drawing: one voxel a letter."""
    return np.array([{".": 0, "k": KIDNEY, "t": TUMOR, "c": CYST, "l": LIVER}[c] for c in text],
                    np.uint8).reshape(1, 1, -1)  # fmt: skip


PAIRED = Cleanup("kidney", paired=True)
KEEP_ONE, KEEP_TWO = Cleanup("kidney", keep_largest=1), Cleanup("kidney", keep_largest=2)


@pytest.mark.parametrize(
    ("before", "steps", "after"),
    [
        ("kkk.kk.k.l", (KEEP_TWO,), "kkk.kk...l"),
        ("kkk.kk.k.l", (KEEP_ONE,), "kkk......l"),
        ("kkk.kk.k.l", (Cleanup("kidney"),), "kkk.kk.k.l"),
        ("kkk.kk.k.l", (Cleanup("kidney", min_ml=2.0),), "kkk.kk...l"),
        ("kkk.kk.k.l", (Cleanup("kidney", min_ml=1.5),), "kkk.kk...l"),
        ("kkk.kk.k.l", (Cleanup("kidney", 1, 4.0),), ".........l"),
        ("kkk.kk.k.l", (Cleanup("spleen", 1, 99.0),), "kkk.kk.k.l"),
        # A tumor across a kidney does not make two of it ...
        ("kkttkk.kkk.k", (KEEP_TWO,), "kkttkk.kkk.."),
        ("kctk.kkk", (KEEP_ONE,), "kctk...."),
        # ... and a lesion is part of the organ's size,
        ("ktttt.kkkk", (KEEP_ONE,), "ktttt....."),
        ("ktt.kk", (Cleanup("kidney", min_ml=3.0),), "ktt..."),
        # but one that touches no organ is none of its parts, and not this step's to drop.
        ("ttttt.kkk.kk", (KEEP_TWO,), "ttttt.kkk.kk"),
        ("ttttt.kkk.kk", (KEEP_ONE,), "ttttt.kkk..."),
        # A lesion's own step looks at the lesion alone.
        ("kkkt.tt", (Cleanup("kidney_tumor", keep_largest=1),), "kkk..tt"),
        ("kk.kkkt.k", (Cleanup("kidney_tumor", min_ml=2.0), KEEP_ONE), "...kkk..."),
        # An organ that broke in two stays whole, its specks do not.
        ("kkkk.k.kk...", (Cleanup("kidney", least_part=0.5),), "kkkk...kk..."),
        ("............", (Cleanup("kidney", least_part=0.5),), "............"),
        # Of a pair, the largest on either side; what lies across the middle goes,
        ("kk.k.kkkk.k.", (PAIRED,), "kk........k."),
        ("k.kk....kk.k", (PAIRED,), "..kk....kk.."),
        # the larger one first where only one may stay,
        ("k......kk...", (Cleanup("kidney", keep_largest=1, paired=True),), ".......kk..."),
        # also where one side, or the middle, is all there is.
        ("kk.k........", (PAIRED,), "kk.........."),
        ("k...kkkk....", (PAIRED,), "k..........."),
        ("....kkkk....", (PAIRED,), "....kkkk...."),
        ("....kkkk....", (Cleanup("kidney", min_ml=5.0, paired=True),), "............"),
        # Another organ's lesions are no bridge.
        ("kklkk", (KEEP_ONE,), "kkl.."),
    ],
)
def test_cleaning(before: str, steps: tuple[Cleanup, ...], after: str) -> None:
    labels = line(before)
    assert clean(labels, steps, 1.0).tolist() == line(after).tolist()
    assert labels.tolist() == line(before).tolist()


def test_diagonal_neighbours_are_one_component() -> None:
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = KIDNEY
    np.testing.assert_array_equal(clean(labels, (Cleanup("kidney", 1, 3.0),), 1.0), labels)


@given(st.integers(0, 10_000), st.integers(0, 3), st.integers(0, 6), st.floats(0.1, 0.6))
def test_cleaning_agrees_with_another_library(seed, keep, smallest, part) -> None:
    rng = np.random.default_rng(seed)
    labels = np.where(
        rng.random((6, 7, 8)) < part, rng.choice([KIDNEY, TUMOR, LIVER], (6, 7, 8)), 0
    ).astype(np.uint8)
    out = clean(labels, (Cleanup("kidney", keep, smallest * 0.5),), 0.5)
    parts, count = ndimage.label(np.isin(labels, [KIDNEY, TUMOR, CYST]), np.ones((3, 3, 3)))
    sizes = {
        i: int((parts == i).sum())
        for i in range(1, count + 1)
        if (labels[parts == i] == KIDNEY).any()
    }
    allowed = sorted((s for s in sizes.values() if s >= smallest), reverse=True)
    allowed = allowed[:keep] if keep else allowed
    left = {i for i in sizes if (out[parts == i] == KIDNEY).any()}
    # Of equally large components any may stay.
    assert sorted((sizes[i] for i in left), reverse=True) == allowed
    for i in sizes:
        was = (labels == KIDNEY) & (parts == i)
        assert (out[was] == (KIDNEY if i in left else 0)).all()
    np.testing.assert_array_equal(out[labels != KIDNEY], labels[labels != KIDNEY])


def test_a_lesion_that_touches_no_organ_is_none() -> None:
    kidney, tumor = BY_NAME["kidney"].value, BY_NAME["kidney_tumor"].value
    labels = np.zeros((6, 8, 20), np.uint8)
    labels[1:5, 2:6, 2:6] = kidney
    # Beside it, touching at a corner alone, a voxel away, and in another organ.
    labels[2, 3, 6:9] = tumor
    labels[5, 6, 1] = tumor
    labels[2:4, 2:4, 12:14] = tumor
    labels[2:4, 6:8, 16:18] = BY_NAME["liver"].value
    labels[3, 5, 16] = tumor
    found = clean(labels, (Cleanup("kidney_tumor", attached=True),), 0.001)
    kept = labels.copy()
    kept[2:4, 2:4, 12:14] = 0
    kept[3, 5, 16] = 0
    np.testing.assert_array_equal(found, kept)
    assert not clean(
        np.where(labels == kidney, 0, labels).astype(np.uint8),
        (Cleanup("kidney_tumor", attached=True),),
        0.001,
    )[labels == tumor].any()


def test_an_organ_is_attached_to_nothing() -> None:
    with pytest.raises(BadManifest, match="kidney lies in no organ"):
        Cleanup("kidney", attached=True)
