"""From cases to a calibrated file: copies, observations, refusals; models whose answer is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from imaging.errors import BadParameter
from imaging.volume import Volume
from models.manifest import Calibration, Sampling, Trust
from models.onnxfile import graph_sha256, parse, read_manifest
from models.store import Store
from tests.serving.tiny_model import CENTRES, boxes_ct, publish
from tests.training.tiny import write_decathlon
from training.calibration import calibrate, put_into
from training.calibration.copies import copies_of, phantom_copies, strangers
from training.calibration.figure import draw, table
from training.calibration.observe import observe, sample
from training.cases import Loaded
from training.datasets import open_dataset
from training.package import onnx_scorer
from training.phantoms import STRANGERS

AS_IT_IS = Sampling((None, None, None))
NAMES = ("pancreas", "pancreas_tumor", "kidney")


def boxes() -> Loaded:
    ct, labels = boxes_ct()
    return Loaded("boxes", ct, ct.with_array(labels), NAMES)


def as_is(case: Loaded):
    return next(copies_of(case, AS_IT_IS, np.random.default_rng(0)))


def model(tmp_path: Path, centres: dict[str, float] = CENTRES) -> Path:
    return publish(Store(tmp_path / "store", behind=()), tmp_path, centres=centres).path


def test_copies_keep_the_labels_on_their_organs() -> None:
    case = boxes()
    made = {c.name: c for c in copies_of(case, AS_IT_IS, np.random.default_rng(0))}
    first = next(iter(made.values()))
    assert first.name == "as is"
    assert (first.image.array == case.image.array).all()
    assert (first.truth.array == case.labels.array).all()
    assert len(made) == 11
    for copy in made.values():
        assert copy.image.array.shape == copy.truth.array.shape
        # The kidney box is bright in every copy that has some of it.
        kidney = copy.image.array[copy.truth.array == 3]
        assert kidney.size == 0 or kidney.mean() > copy.image.array.mean()
    assert not (made["noise of 30 HU"].image.array == first.image.array).all()
    assert made["lower 30%"].image.array.shape[0] < first.image.array.shape[0]


def test_a_ct_without_labels_of_lesions_may_be_taken_as_free_of_them(tmp_path: Path) -> None:
    case = dataclasses.replace(boxes(), annotated=("pancreas", "liver"))
    (tumors,) = {
        c.annotated for c in copies_of(case, AS_IT_IS, np.random.default_rng(0), lesion_free=True)
    }
    assert tumors == ("pancreas", "liver", "pancreas_tumor")
    assert as_is(case).annotated == ("pancreas", "liver")
    # What is marked there is false then; else nobody knows.
    labels = np.where(boxes_ct()[1] == 2, np.uint8(1), boxes_ct()[1])
    unmarked = dataclasses.replace(case, labels=case.labels.with_array(labels))
    path = model(tmp_path)
    free = next(copies_of(unmarked, AS_IT_IS, np.random.default_rng(0), lesion_free=True))
    for copy, expected in ((free, {"pancreas_tumor": 0.0}), (as_is(unmarked), {})):
        seen = observe("boxes", copy, read_manifest(path), onnx_scorer(path))
        assert {o.structure: o.outcome for o in seen if "tumor" in o.structure} == expected
        assert not copy.made


def test_strangers_hold_nothing() -> None:
    case = boxes()
    high = np.concatenate([case.image.array, np.full((30, 40, 48), -100, np.int16)])
    grid = dataclasses.replace(case.image.geometry, shape=high.shape)
    labels = np.zeros(high.shape, np.uint8)
    labels[:20] = case.labels.array
    tall = Loaded("tall", Volume(high, grid), Volume(labels, grid), NAMES)
    found = {c.name: c for c in strangers(tall, AS_IT_IS, np.random.default_rng(0), NAMES)}
    assert set(found) == {"inverted", "chest", *(f"made {kind}" for kind in STRANGERS)}
    assert all(c.stranger and not c.truth.array.any() for c in found.values())
    # Labels end at slice 12 of 50.
    assert found["chest"].image.array.shape == (38, 40, 48)
    assert (found["inverted"].image.array == -high).all()
    short = {c.name for c in strangers(case, AS_IT_IS, np.random.default_rng(0), NAMES)}
    assert "chest" not in short


def test_phantoms_bring_lesions() -> None:
    (copy,) = phantom_copies(Sampling((8.0, 8.0, 8.0)), 1, np.random.default_rng(3))
    assert copy.image.geometry.spacing == pytest.approx((8.0, 8.0, 8.0))
    assert {"kidney_tumor", "kidney_cyst"} <= set(copy.annotated)
    assert copy.made


def test_an_observation_is_the_model_beside_the_truth(tmp_path: Path) -> None:
    path = model(tmp_path)
    case = boxes()
    manifest, scorer = read_manifest(path), onnx_scorer(path)
    found = {o.structure: o for o in observe("boxes", as_is(case), manifest, scorer)}
    assert {name: o.outcome for name, o in found.items()} == dict.fromkeys(NAMES, 1.0)
    assert found["kidney"].true_ml == pytest.approx(found["kidney"].evidence.volume_ml)
    assert found["kidney"].evidence.cut

    # The tumor is elsewhere, the kidney has half the voxels.
    labels = case.labels.array.copy()
    labels[labels == 2] = 1
    labels[0:5][labels[0:5] == 3] = 0
    wrong = dataclasses.replace(case, labels=case.labels.with_array(labels))
    found = {o.structure: o for o in observe("boxes", as_is(wrong), manifest, scorer)}
    assert found["pancreas_tumor"].outcome == 0
    assert found["kidney"].outcome == pytest.approx(2 / 3)
    assert found["pancreas"].outcome == 1

    labels[0:5] = np.where(boxes_ct()[1][0:5] == 3, 255, labels[0:5])
    unsure = dataclasses.replace(case, labels=case.labels.with_array(labels))
    found = {o.structure: o for o in observe("boxes", as_is(unsure), manifest, scorer)}
    assert found["kidney"].outcome == 1

    # Nobody knows about the tumor, then about most of it.
    tumor = boxes_ct()[1] == 2
    labels = np.where(tumor, np.uint8(255), case.labels.array)
    hidden = dataclasses.replace(case, labels=case.labels.with_array(labels))
    found = {o.structure: o for o in observe("boxes", as_is(hidden), manifest, scorer)}
    assert set(found) == {"kidney", "pancreas"}
    labels[tuple(np.argwhere(tumor)[0])] = 2
    hidden = dataclasses.replace(case, labels=case.labels.with_array(labels))
    found = {o.structure: o for o in observe("boxes", as_is(hidden), manifest, scorer)}
    assert found["pancreas_tumor"].outcome == 1

    known = dataclasses.replace(case, annotated=("kidney",))
    assert [o.structure for o in observe("boxes", as_is(known), manifest, scorer)] == ["kidney"]


def test_sampled_voxels_are_labelled_ones_and_right_where_the_truth_is(tmp_path: Path) -> None:
    path = model(tmp_path)
    labels = boxes_ct()[1]
    labels[labels == 3] = 0
    case = dataclasses.replace(boxes(), labels=boxes_ct()[0].with_array(labels))
    manifest, scorer = read_manifest(path), onnx_scorer(path)
    found = sample("boxes", as_is(case), manifest, scorer, 500, np.random.default_rng(0))
    assert found.scores.shape == (4, 500)
    assert set(np.unique(found.labels)) <= {1, 2, 3}
    assert (found.right == (found.labels != 3)).all()
    assert (found.scores.argmax(axis=0) > 0).all()

    unknown = np.where(boxes_ct()[1] == 3, 255, labels).astype(np.uint8)
    case = dataclasses.replace(case, labels=case.labels.with_array(unknown))
    found = sample("boxes", as_is(case), manifest, scorer, 500, np.random.default_rng(0))
    assert set(np.unique(found.labels)) == {1, 2}
    assert found.right.all()


def test_a_calibration_is_fitted_on_all_and_judged_on_left_out_cases(tmp_path: Path) -> None:
    cases = open_dataset(write_decathlon(tmp_path / "data"))
    centres = {"background": -90.0, "kidney": 120.0}
    path = model(tmp_path, centres)
    made = calibrate(str(path), cases, phantoms=0)
    fitted = made.calibration.fitted
    assert fitted["cases"] == [case.name for case in cases]
    assert {j.seen.case for j in made.judgements} <= set(fitted["cases"])
    (trust,) = made.calibration.trust
    assert trust.structure == "kidney"
    assert 0 <= fitted["structures"]["kidney"]["error_after"] <= 1
    assert "| kidney |" in table(made)
    draw(made, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    again = calibrate(str(path), cases, phantoms=0)
    assert again.calibration == made.calibration


def test_a_calibration_goes_into_the_manifest_and_leaves_the_graph(tmp_path: Path) -> None:
    path = model(tmp_path)
    before = graph_sha256(parse(path)[0])
    given = Calibration(1.5, (Trust("kidney", 0.0, 1.0, 0.5, 300.0, 0.2),), {"cases": ["a"]})
    put_into(path, given)
    assert read_manifest(path).calibration == given
    assert graph_sha256(parse(path)[0]) == before
    foreign = dataclasses.replace(given, trust=(Trust("liver", 0.0, 1.0, 0.5, 300.0),))
    with pytest.raises(BadParameter, match="liver, which"):
        put_into(path, foreign)
    assert read_manifest(path).calibration == given


def test_one_case_is_too_few(tmp_path: Path) -> None:
    cases = open_dataset(write_decathlon(tmp_path / "data"))[:1]
    with pytest.raises(BadParameter, match="1 case is too few"):
        calibrate(str(model(tmp_path)), cases)
