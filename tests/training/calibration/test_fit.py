"""Fits of confidences: known truths are found again, and too little is no ground for one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.confidence import Evidence, confidence_of, features
from models.manifest import Manifest, Trust
from tests.models.manifests import manifest
from training.calibration.fit import (
    best_bound,
    calibration_error,
    fit_temperature,
    fit_trust,
    lesion_bound,
    reliability,
)
from training.calibration.observe import Observation, Voxels

OUTPUTS = ("kidney", "pancreas", "kidney_tumor")


def two_classes() -> Manifest:
    return manifest(outputs=("kidney",))


def voxels(case: str, temperature: float, rng: np.random.Generator) -> Voxels:
    """Labels that are right as often as their scores say at a temperature."""
    margin = rng.uniform(0, 6, 4000).astype(np.float32)
    scores = np.stack([np.zeros_like(margin), margin])
    right = rng.random(4000) < 1 / (1 + np.exp(-margin / temperature))
    return Voxels(case, scores, np.full(4000, 3, np.uint8), right)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_scores_is_found(temperature: float) -> None:
    rng = np.random.default_rng(1)
    seen = [voxels(case, temperature, rng) for case in "abc"]
    assert fit_temperature(seen, two_classes()) == pytest.approx(temperature, rel=0.1)


def observations(
    structure: str, count: int, rng: np.random.Generator, cases: str = "abcd"
) -> list[Observation]:
    """Outcomes that follow a logistic of probability and size."""
    made = []
    for index in range(count):
        evidence = Evidence(float(rng.uniform(0.5, 0.99)), float(100 * np.exp(rng.uniform(-3, 0))))
        sure, shortfall = features(evidence, 100.0)
        chance = 1 / (1 + np.exp(-(-1 + 1.5 * sure + 1.0 * shortfall)))
        outcome = float(rng.random() < chance)
        copy = "as is" if index < len(cases) else f"copy {index}"
        case = cases[index % len(cases)]
        made.append(Observation(case, copy, structure, evidence, outcome, 100.0))
    return made


def test_trust_is_calibrated_on_what_it_was_not_fitted_on() -> None:
    rng = np.random.default_rng(2)
    (trust,) = fit_trust(observations("kidney", 600, rng), ("kidney",))
    fresh = observations("kidney", 600, rng)
    outcome = np.array([o.outcome for o in fresh])
    before = np.array([o.evidence.probability for o in fresh])
    after = np.array([confidence_of(o.evidence, trust) for o in fresh])
    assert calibration_error(after, outcome) < 0.06 < 0.2 < calibration_error(before, outcome)
    assert trust.usual_ml == 100
    kept = after >= trust.least
    # Hardly anything that is there is lost, and much of what is not.
    assert kept[outcome == 1].mean() > 0.95
    assert (~kept)[outcome == 0].mean() > 0.2


def test_evidence_against_sense_gives_no_negative_slope() -> None:
    rng = np.random.default_rng(3)
    backwards = [
        Observation(case, f"copy {i}", "kidney", Evidence(p, 50.0), 1 - p, 100.0)
        for i, (case, p) in enumerate(zip("abcd" * 10, rng.uniform(0.1, 0.9, 40), strict=True))
    ]
    (trust,) = fit_trust(backwards, ("kidney",))
    assert trust.certainty == 0


def test_a_structure_of_few_observations_is_trusted_as_its_like() -> None:
    rng = np.random.default_rng(4)
    seen = [*observations("kidney", 60, rng), *observations("pancreas", 3, rng)]
    found = {t.structure: t for t in fit_trust(seen, OUTPUTS)}
    # Lesions are not like organs.
    assert set(found) == {"kidney", "pancreas"}
    assert found["pancreas"].certainty == pytest.approx(found["kidney"].certainty, abs=0.5)
    assert fit_trust(seen[:5], OUTPUTS) == ()


def test_outcomes_that_never_differ_teach_nothing() -> None:
    always = [
        Observation(case, "as is", "kidney", Evidence(0.9, 50.0), 0.95, 100.0) for case in "ab" * 10
    ]
    assert fit_trust(always, ("kidney",)) == ()


def test_a_case_counts_once_however_many_copies_it_has() -> None:
    few = [Observation("a", "x", "kidney", Evidence(0.8, 100.0), 1.0, 100.0)] * 10
    many = [Observation("b", "x", "kidney", Evidence(0.8, 100.0), 0.0, 100.0)] * 90
    (trust,) = fit_trust(few + many, ("kidney",))
    assert confidence_of(few[0].evidence, trust) == pytest.approx(0.5, abs=0.02)


def test_the_bound_lies_between_what_is_there_and_what_is_not() -> None:
    confidence = np.array([0.1, 0.2, 0.6, 0.7, 0.4])
    outcome = np.array([0.0, 0.05, 0.9, 0.8, 0.3])
    assert best_bound(confidence, outcome) == pytest.approx(0.4)
    assert best_bound(confidence, np.ones(5)) == 0
    assert best_bound(confidence, np.zeros(5)) == 0
    # One in fifty may be lost: not the two lowest of fifty, whatever that would drop.
    there = np.linspace(0.2, 0.9, 50)
    wrong = np.full(50, 0.5)
    bound = best_bound(np.concatenate([there, wrong]), np.repeat([1.0, 0.0], 50))
    assert bound <= there[1]
    # Nothing tells them apart: keep all.
    assert best_bound(np.full(4, 0.5), np.array([0.0, 1.0, 0.0, 1.0])) == 0


def test_half_a_false_lesion_a_ct_is_believed_and_no_more() -> None:
    """Of all kinds together."""
    rng = np.random.default_rng(6)
    seen = [
        dataclasses.replace(o, copy=f"copy {index % 20}")
        for kind in ("kidney_tumor", "pancreas_tumor")
        for index, o in enumerate(observations(kind, 120, rng, "ab"))
    ]
    trust = fit_trust(seen, ("kidney_tumor", "pancreas_tumor"))
    least = {t.least for t in trust}
    assert len(least) == 1
    of = {t.structure: t for t in trust}
    false = np.array([confidence_of(o.evidence, of[o.structure]) for o in seen if not o.outcome])
    assert len({(o.case, o.copy) for o in seen}) == 20
    # Bounds are thousandths.
    assert (false >= min(least)).sum() <= 10 < (false >= min(least) - 0.001).sum()
    real = [o for o in seen if o.outcome]
    assert lesion_bound(trust, real) == 0
    planted = [dataclasses.replace(o, made=True) for o in seen]
    assert lesion_bound(trust, [*seen, *planted]) == min(least)
    # Nothing but an organ in as many CTs again: these count too.
    organs = [dataclasses.replace(o, structure="kidney", copy=f"other {o.copy}") for o in seen]
    more = lesion_bound(trust, [*seen, *organs])
    assert (false >= more).sum() <= 20 < (false >= more - 0.001).sum()
    assert more < min(least)


def test_few_false_lesions_in_changed_copies_make_up_for_none_as_they_are() -> None:
    def seen(copy: str, probability: float) -> Observation:
        return Observation("a", copy, "kidney_tumor", Evidence(probability, 9.0), 0.0, 9.0)

    trust = [Trust("kidney_tumor", 0.0, 1.0, 0.0, 9.0)]
    clean = [seen(f"copy {i}", 0.1) for i in range(9)]
    assert lesion_bound(trust, [*clean, seen("copy 9", 0.8), seen("copy 10", 0.8)]) < 0.8
    assert lesion_bound(trust, [*clean, seen("copy 9", 0.8), seen("as is", 0.8)]) == 0.801


def test_lesions_are_trusted_alike_whatever_their_kind() -> None:
    """A kind that has two false ones, the same in every copy, does not learn these by heart."""
    rng = np.random.default_rng(7)
    seen = observations("kidney_tumor", 200, rng)
    false = dataclasses.replace(seen[0], structure="pancreas_tumor", outcome=0.0, true_ml=7.0)
    real = [o for o in seen if o.outcome]
    kinds = ("kidney_tumor", "pancreas_tumor", "kidney_cyst")
    found = fit_trust([*seen, *[false] * 20], kinds)
    assert [t.structure for t in found] == list(kinds)
    assert len({(t.offset, t.certainty, t.size, t.least) for t in found}) == 1
    assert {t.usual_ml for t in found} == {np.median([o.true_ml for o in real])}


def test_the_calibration_error_is_the_mean_distance_of_the_bins() -> None:
    confidence = np.array([0.1, 0.1, 0.9, 0.9])
    outcome = np.array([0.0, 1.0, 1.0, 1.0])
    assert calibration_error(confidence, outcome, 2) == pytest.approx((0.4 + 0.1) / 2)
    assert [b.count for b in reliability(confidence, outcome, 2)] == [2, 2]
    assert np.isnan(calibration_error(np.array([]), np.array([])))
