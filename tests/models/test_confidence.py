"""Confidence: probabilities as computed by hand, and what is left out of a label map."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from imaging.geometry import Geometry
from imaging.volume import Volume
from models.confidence import (
    Evidence,
    Finding,
    confidence_of,
    features,
    is_lesion,
    judge,
    probability,
    sureness,
)
from models.labels import BY_NAME, STRUCTURES
from models.manifest import Calibration, Manifest, Trust
from models.predict import predict
from tests.models.manifests import manifest
from tests.models.scenes import by_tissue, deep_manifest, scene

ORGANS = ("pancreas", "pancreas_tumor", "kidney", "kidney_tumor")
PANCREAS, TUMOR, KIDNEY, KIDNEY_TUMOR = (BY_NAME[name].value for name in ORGANS)
GRID = Geometry((10, 20, 30), (4.0, 2.0, 2.5), (-30.0, 20.0, 5.0), np.eye(3)[:, ::-1])
ML = 4.0 * 2.0 * 2.5 / 1000


def trusting(*entries: Trust, **fields: Any) -> Manifest:
    return manifest(outputs=ORGANS, calibration=Calibration(1.0, entries), **fields)


def plain(name: str, least: float = 0.0) -> Trust:
    """The confidence is the mean probability."""
    return Trust(name, 0.0, 1.0, 0.0, 1.0, least)


def body() -> tuple[np.ndarray, np.ndarray]:
    """A kidney with a tumor in it and another apart, half of it surely; a doubtful pancreas."""
    labels, sure = np.zeros((2, *GRID.shape), np.uint8)
    labels[2:8, 2:12, 2:12] = KIDNEY
    labels[3:5, 4:6, 4:6] = KIDNEY_TUMOR
    labels[8, 16:18, 20:22] = KIDNEY_TUMOR
    labels[4:6, 14:16, 2:6] = PANCREAS
    labels[4, 17, 2:4] = TUMOR
    sure[labels == KIDNEY] = 204
    sure[labels == KIDNEY_TUMOR] = 51
    sure[3:5, 4:6, 4:6] = 153
    sure[labels == PANCREAS] = 51
    sure[labels == TUMOR] = 230
    return labels, sure


def test_softmax_at_a_temperature_an_organ_holds_its_lesions() -> None:
    made = trusting()
    # Background, pancreas, its tumor, kidney, its tumor.
    scores = np.log([[1.0, 2.0, 3.0, 8.0, 6.0]] * 2).T.astype(np.float32)
    labels = np.array([KIDNEY, KIDNEY_TUMOR], np.uint8)
    np.testing.assert_allclose(probability(scores, labels, made, 1.0), [14 / 20, 6 / 20], rtol=1e-5)
    roots = np.sqrt([1.0, 2.0, 3.0, 8.0, 6.0])
    wanted = [(roots[3] + roots[4]) / roots.sum(), roots[4] / roots.sum()]
    np.testing.assert_allclose(probability(scores, labels, made, 2.0), wanted, rtol=1e-5)
    large = scores * 0 + np.array([[0], [0], [0], [500], [0]], np.float32)
    assert probability(large, labels, made, 0.01).tolist() == [1.0, 0.0]


def test_a_channel_of_a_sigmoid_model_stands_for_itself() -> None:
    made = trusting(activation="sigmoid")
    scores = np.array([[9.0], [-900.0], [2.0], [3.0]], np.float32)
    found = probability(scores, np.array([KIDNEY], np.uint8), made, 2.0)
    assert found[0] == pytest.approx(1 / (1 + math.exp(-1)))


def test_the_weight_of_scores_is_taken_out_and_only_labels_are_sure() -> None:
    made = trusting()
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (5, 3, 4, 6)).astype(np.float32)
    labels = np.where(rng.random((3, 4, 6)) < 0.5, KIDNEY, 0).astype(np.uint8)
    weight = rng.uniform(0.1, 3, (3, 1, 6)).astype(np.float32)
    found = sureness(scores * weight, weight, labels, made)
    p = np.exp(scores) / np.exp(scores).sum(0)
    wanted = np.rint((p[3] + p[4]) * 255) * (labels > 0)
    assert np.abs(found - wanted).max() <= 1
    assert (found[labels == 0] == 0).all()


def test_evidence_is_the_mean_and_the_volume_with_lesions() -> None:
    labels, sure = body()
    left, found = judge(labels, sure, GRID, trusting())
    assert left is labels
    kidney = found["kidney"]
    assert kidney.evidence is not None
    assert kidney.evidence.probability == pytest.approx(0.8)
    assert kidney.evidence.volume_ml == pytest.approx((6 * 10 * 10 + 4) * ML)
    assert (kidney.confidence, kidney.kept, kidney.lesions) == (None, True, ())
    near, far = sorted(found["kidney_tumor"].lesions, key=lambda one: -one.evidence.probability)
    assert near.evidence == Evidence(pytest.approx(0.6), pytest.approx(8 * ML))
    assert far.evidence.volume_ml == pytest.approx(4 * ML)
    # Middle voxel (3.5, 4.5, 4.5) of a grid of 4, 2 and 2.5 mm.
    assert near.centre_mm == pytest.approx((-30 + 4.5 * 2.5, 20 + 4.5 * 2, 5 + 3.5 * 4))


def test_what_the_image_cuts_off_does_not_fall_short() -> None:
    labels, sure = body()
    labels[0, 0, 0:3] = TUMOR
    _, found = judge(labels, sure, GRID, trusting())
    cut = [lesion.evidence.cut for lesion in found["pancreas_tumor"].lesions]
    assert sorted(cut) == [False, True]
    whole, part = Evidence(0.8, 10.0), Evidence(0.8, 10.0, cut=True)
    assert features(whole, 100.0)[1] == pytest.approx(math.log(0.1))
    assert features(part, 100.0)[1] == 0
    assert features(Evidence(0.8, 1000.0), 100.0)[1] == 0


def test_confidence_is_the_logistic_of_the_evidence() -> None:
    trust = Trust("kidney", -1.0, 0.5, 2.0, 100.0)
    worth = -1 + 0.5 * math.log(0.8 / 0.2) + 2 * math.log(0.5)
    expected = 1 / (1 + math.exp(-worth))
    assert confidence_of(Evidence(0.8, 50.0), trust) == pytest.approx(expected)
    assert confidence_of(Evidence(0.8, 1e-9), dataclasses.replace(trust, size=1e3)) == 0
    for p in (0.0, 1.0):
        assert 0 < confidence_of(Evidence(p, 50.0), trust) < 1


def test_a_doubtful_organ_goes_with_its_lesions() -> None:
    labels, sure = body()
    made = trusting(plain("pancreas", 0.5), plain("pancreas_tumor", 0.5), plain("kidney", 0.5))
    left, found = judge(labels, sure, GRID, made)
    assert set(np.unique(left)) == {0, KIDNEY, KIDNEY_TUMOR}
    assert (labels == PANCREAS).any()
    assert found["pancreas"].confidence == pytest.approx(0.2)
    assert not found["pancreas"].kept
    tumor = found["pancreas_tumor"]
    assert tumor.confidence == pytest.approx(230 / 255)
    assert not tumor.kept
    assert [lesion.kept for lesion in tumor.lesions] == [False]
    assert found["kidney"].kept


def test_a_doubtful_lesion_becomes_its_organ_where_they_touch() -> None:
    labels, sure = body()
    left, found = judge(labels, sure, GRID, trusting(plain("kidney_tumor", 0.7)))
    assert (left[3:5, 4:6, 4:6] == KIDNEY).all()
    assert (left[8, 16:18, 20:22] == 0).all()
    assert not found["kidney_tumor"].kept
    assert found["kidney"].kept
    assert ((left == labels) | (labels == KIDNEY_TUMOR)).all()

    left, found = judge(labels, sure, GRID, trusting(plain("kidney_tumor", 0.4)))
    assert (left[3:5, 4:6, 4:6] == KIDNEY_TUMOR).all()
    assert (left[8, 16:18, 20:22] == 0).all()
    assert found["kidney_tumor"].kept
    assert found["kidney_tumor"].confidence == pytest.approx(0.6)
    assert [(lesion.kept) for lesion in found["kidney_tumor"].lesions] == [True, False]


def test_the_doubtful_is_kept_on_request() -> None:
    labels, sure = body()
    made = trusting(*(plain(name, 0.99) for name in ORGANS))
    left, found = judge(labels, sure, GRID, made)
    assert not left.any()
    kept, same = judge(labels, sure, GRID, made, keep_doubtful=True)
    assert (kept == labels).all()
    assert all(finding.kept for finding in same.values())
    assert {n: f.confidence for n, f in same.items()} == {n: f.confidence for n, f in found.items()}


def test_nothing_found_is_no_finding_and_an_organ_of_lesions_alone_is_none() -> None:
    empty = np.zeros(GRID.shape, np.uint8)
    left, found = judge(empty, empty, GRID, trusting(plain("kidney", 0.5)))
    assert not left.any()
    assert set(found.values()) == {Finding()}
    labels, sure = body()
    labels[labels == KIDNEY] = 0
    left, found = judge(labels, sure, GRID, trusting(plain("kidney", 0.5)))
    assert found["kidney"] == Finding()
    assert found["kidney_tumor"].kept
    assert (left == labels).all()


def test_lesions_are_the_tumors_and_cysts() -> None:
    found = {s.name for s in STRUCTURES if is_lesion(s)}
    assert found == {s.name for s in STRUCTURES if s.name.endswith(("_tumor", "_cyst"))}


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_prediction_obeys_the_manifest(least: float) -> None:
    base = deep_manifest(overlap=0.5)
    made = dataclasses.replace(base, calibration=Calibration(0.05, (plain("liver", least),)))
    found = predict(scene(), made, by_tissue(made))
    liver = found.findings["liver"]
    assert liver.confidence is not None
    assert liver.kept == (least == 0)
    assert (found.labels.array == BY_NAME["liver"].value).any() == (least == 0)
    untouched = predict(scene(), base, by_tissue(base))
    assert untouched.findings["liver"].confidence is None
    asked = predict(scene(), made, by_tissue(made), keep_doubtful=True)
    assert (asked.labels.array == untouched.labels.array).all()


def test_confidence_does_not_hang_on_how_a_ct_is_stored() -> None:
    made = deep_manifest(calibration=Calibration(0.05, (plain("liver"),)))
    volume = scene()
    flipped = Volume(
        volume.array[::-1], volume.geometry.transposed((0, 1, 2), (True, False, False))
    )
    once, again = (predict(v, made, by_tissue(made)).findings for v in (volume, flipped))
    assert once == again
