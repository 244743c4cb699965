import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.studies import STUDIES, publish, repetition, run
from federation.studies.cohorts import Hospital, held_out, write_sites
from federation.studies.study import Arm, Model, Study, model_path, paced
from federation.studies.tables import (
    EXTERNAL_PAPER,
    PANCREAS,
    TABLE1_PAPER,
    TUMOR,
    averages,
    external_table,
    interval,
    table1,
)
from imaging.errors import BadParameter, DataError
from models.labels import BY_NAME
from models.manifest import Sampling
from models.onnxfile import read_manifest
from models.store import Store
from tests.federation.sites import job as tiny_job
from tests.training.tiny import volumetric
from training.cases import load
from training.datasets import open_dataset
from training.evaluate import Score
from training.phantoms import STYLES
from training.reproduce.tables import Report

_COARSE = (12.0, 12.0, 12.0)
_SICK = Hospital(
    "c2",
    "b-thick-portal",
    (6.0, 6.0, 6.0),
    ("pancreas", "pancreas_tumor"),
    (45.0, 45.0),
    train=2,
    test=1,
)
_HEALTHY = Hospital("c1", "a-thin-portal", _COARSE, ("pancreas",), train=2, test=1)


# The paper's printed columns: pancreas average and average, percent.
@pytest.mark.parametrize(
    ("row", "pancreas", "average"),
    [
        ("C1_baseline", 60.25, 30.1),
        ("C2_baseline", 65.08, 59.8),
        ("C1_FL_local", 72.69, 61.4),
        ("C2_FL_local", 73.23, 62.9),
        ("FL_global", 73.12, 59.8),
    ],
)
def test_averages_are_those_of_the_papers_table(row: str, pancreas: float, average: float) -> None:
    found = averages(*TABLE1_PAPER[row])
    assert found[0] == pytest.approx(pancreas, abs=0.006)
    assert found[1] == pytest.approx(average, abs=0.06)


def test_averages_weight_a_test_set_by_its_cases() -> None:
    assert averages(1.0, 0.0, 0.5, (1, 3)) == (0.25, 0.375)


def _table1_scores() -> dict[str, dict[str, list[Score]]]:
    def scores(site: str, mask: str, values: list[float]) -> list[Score]:
        return [Score(f"{site}-{i}", mask, v) for i, v in enumerate(values)]

    found = {
        name: {
            "c1": scores("c1", PANCREAS, [0.2, 0.4]),
            "c2": [*scores("c2", PANCREAS, [0.5] * 4), *scores("c2", TUMOR, [0.1, 0.3, 0.2, 0.2])],
        }
        for name in TABLE1_PAPER
    }
    found["FL_global"]["c1"] = scores("c1", PANCREAS, [0.8, 0.8])
    return found


def test_table1_has_the_papers_rows_and_ours() -> None:
    report = table1(_table1_scores(), "Made up.")
    lines = report.text.splitlines()
    assert lines[0].startswith("Made up.")
    paper = next(line for line in lines if "paper: FL_global" in line)
    assert paper == "| paper: FL_global | 0.823 | 0.654 | 0.731 | 0.464 | 0.598 |"
    ours = next(line for line in lines if "ours: FL_global" in line).split("|")
    assert ours[2].strip() == "0.800 (0.800 to 0.800)"
    # (2 * 0.8 + 4 * 0.5) / 6, and its mean with the tumor's 0.2.
    assert ours[4].strip().startswith("0.600 (")
    assert ours[6].strip() == "0.400"


def test_table1_pairs_the_global_model_with_each_sites_own() -> None:
    report = table1(_table1_scores(), "Made up.")
    line = next(li for li in report.text.splitlines() if "FL_global - C2_baseline, C1" in li)
    assert "+0.500" in line
    assert report.bars["C1 pancreas"]["FL_global"] == pytest.approx((0.8, 0.0))
    assert set(report.bars["C2 tumor"]) == set(TABLE1_PAPER)


def test_an_interval_holds_the_mean_and_widens_with_the_spread() -> None:
    assert interval([0.5, 0.5]) == "0.500 (0.500 to 0.500)"
    low, high = map(float, interval([0.0, 1.0, 0.0, 1.0]).partition("(")[2][:-1].split(" to "))
    assert low < 0.5 < high


def test_external_table_means_over_organs_and_pairs_over_cases() -> None:
    def scores(liver: list[float], spleen: list[float]) -> dict[str, list[Score]]:
        pairs = (("liver", liver), ("spleen", spleen))
        return {"out": [Score(str(i), o, v) for o, vs in pairs for i, v in enumerate(vs)]}

    found = {"one site": scores([0.2, 0.4], [0.6, 0.8]), "FedBN": scores([0.4, 0.6], [0.6, 0.8])}
    report = external_table(found, "out", ("liver", "spleen"), "Made up.")
    ours = next(line for line in report.text.splitlines() if "ours: FedBN" in line)
    # Cases are 0.5 and 0.7 over both organs.
    assert ours.split("|")[4].strip() == "0.600 (0.500 to 0.700)"
    assert "| FedBN - one site | +0.100 |" in report.text
    assert "| paper: FedBN | 0.93 | 0.83 | 0.88 |" in report.text


def test_papers_external_figures_name_every_organ() -> None:
    organs = STUDIES["segviz"].tests["external"]
    assert all(set(means) == set(organs) for means in EXTERNAL_PAPER.values())


def test_a_hospital_makes_the_same_cases_again_and_others_for_another_seed() -> None:
    (first,), (again,) = (list(_SICK.cases("test", 3)) for _ in range(2))
    (other,) = _SICK.cases("test", 4)
    assert np.array_equal(first.image.array, again.image.array)
    assert np.array_equal(first.labels.array, again.labels.array)
    assert not np.array_equal(first.image.array, other.image.array)


def test_no_patient_is_in_two_splits_or_hospitals() -> None:
    twin = dataclasses.replace(_SICK, name="c3")
    made = [*_SICK.cases("train", 3), *_SICK.cases("test", 3), *twin.cases("train", 3)]
    arrays = {case.image.array.tobytes() for case in made}
    assert len(arrays) == len({case.name for case in made}) == 5


def test_only_sick_patients_have_tumors() -> None:
    tumor, pancreas = (BY_NAME[n].value for n in ("pancreas_tumor", "pancreas"))
    sick, healthy = next(_SICK.cases("train", 0)), next(_HEALTHY.cases("train", 0))
    assert {tumor, pancreas} <= set(np.unique(sick.labels.array))
    assert set(np.unique(healthy.labels.array)) == {0, pancreas}
    assert healthy.annotated == ("pancreas",)


def test_a_split_that_is_none_is_refused() -> None:
    with pytest.raises(BadParameter, match="'exam'"):
        next(_SICK.cases("exam", 0))


def test_sites_on_disk_are_the_cases_in_memory(tmp_path: Path) -> None:
    folders = write_sites((_HEALTHY, _SICK), tmp_path, 5)
    assert list(folders) == ["c1", "c2"]
    for hospital in (_HEALTHY, _SICK):
        found = open_dataset(folders[hospital.name])
        assert [c.split for c in found] == ["train", "train", "test"]
        assert all(c.annotated == hospital.annotated for c in found)
        assert found[0].source["name"] == f"phantoms of {hospital.name}"
        (made,), (case,) = list(hospital.cases("test", 5)), held_out(folders[hospital.name])
        stored = load(case)
        assert stored.name == made.name
        assert np.array_equal(stored.image.array, made.image.array)
        assert np.array_equal(stored.labels.array, made.labels.array)
        assert stored.image.geometry.close_to(made.image.geometry, 1e-3)


def test_a_set_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (folder,) = write_sites((_HEALTHY,), tmp_path, 5).values()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_sites((_HEALTHY,), tmp_path, 5)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("name", list(STUDIES))
def test_a_studys_parts_fit_together(name: str) -> None:
    study = STUDIES[name]
    hospitals = {h.name: h for h in study.hospitals}
    assert study.name == name
    assert {h.style for h in study.hospitals} <= set(STYLES)
    arms = {arm.job.name: arm for arm in study.arms("tiny", 7)}
    for models in study.rows.values():
        for model in models.values():
            assert not model.site or model.site in arms[model.arm].sites
            # A job whose heads stay at their sites has no global model.
            assert model.site or not arms[model.arm].job.local_head
        for masks in study.tests.values():
            assert set(masks) <= set(models)
    for arm in arms.values():
        assert {h for data in arm.sites.values() for h in data} <= set(hospitals)
        assert arm.job.recipe.seed == 7
        assert arm.job.min_sites == arm.job.max_sites == len(arm.sites)
    assert set(study.tests) <= set(hospitals)


@pytest.mark.parametrize("name", list(STUDIES))
@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_arms_train_as_many_steps_a_site(name: str, scale: Any) -> None:
    steps = {
        arm.job.name: arm.job.recipe.steps / len(next(iter(arm.sites.values())))
        for arm in STUDIES[name].arms(scale, 0)
    }
    assert len(set(steps.values())) == 1, steps


def test_at_the_papers_scale_a_recipe_is_the_papers() -> None:
    for name, recipe in (("wang2020", "wang2020"), ("segviz", "segviz-liver")):
        jobs = {arm.job.recipe.name: arm.job for arm in STUDIES[name].arms("paper", 0)}
        assert jobs[recipe].recipe.optimizer.name == "adam"
        assert not jobs[recipe].recipe.loss.log_dice
        assert jobs[recipe].local_epochs == 10


def test_paced_keeps_the_length_of_a_recipe_as_near_as_whole_epochs_come() -> None:
    recipe = volumetric(steps=100, steps_per_epoch=10)
    assert paced(recipe, 5)[1] == 2
    long, epochs = paced(recipe, 3, times=2)
    assert (long.steps, epochs) == (180, 6)
    assert paced(recipe, 50)[1] == 1


def _arms(scale: Any, seed: int) -> tuple[Arm, ...]:
    recipe = volumetric(seed=seed, scale=scale, sampling=Sampling(_COARSE))
    job = tiny_job(recipe, 1, name="central", min_sites=1, max_sites=2)
    return (Arm(job, {"one": ("c1", "c2")}),)


def _kept(found: Any, about: str, kept: list[Any]) -> Report:
    kept.append(found)
    return Report(about, {})


@pytest.mark.slow
def test_a_study_trains_once_and_scores_every_row_on_every_test_set(tmp_path: Path) -> None:
    kept: list[Any] = []
    names = ("pancreas", "kidney")
    local, whole = Model("central", "one"), Model("central")
    study = Study(
        name="small",
        hospitals=tuple(
            Hospital(n, "a-thin-portal", _COARSE, names, train=5, test=1) for n in ("c1", "c2")
        ),
        arms=_arms,
        rows={
            "mixed": {"pancreas": local, "kidney": whole},
            "whole": dict.fromkeys(names, whole),
        },
        tests={"c1": names, "c2": ("pancreas",)},
        report=functools.partial(_kept, kept=kept),
    )
    report = run(study, tmp_path)
    assert report.text.startswith("Phantoms, not patients; cases to train and to test on: 5 and 1")
    for found in kept[0].values():
        assert [s.structure for s in found["c1"]] == list(names)
        assert [s.case for s in found["c2"]] == ["c2-test-000"]
    part = repetition(tmp_path, 0)
    made = {model: read_manifest(model_path(model, part)) for model in (local, whole)}
    assert [m.provenance.scope for m in made.values()] == ["local", "global"]
    # Of the two hospitals' ten cases every fifth is held back.
    assert sum(found["cases"] for found in made[local].provenance.data) == 8
    before = model_path(whole, part).stat().st_mtime_ns
    assert run(study, tmp_path) == report
    assert kept[1] == kept[0]
    assert model_path(whole, part).stat().st_mtime_ns == before
    published = publish(study, part, Store(tmp_path / "store", behind=()))
    assert [m.reference for m in published] == ["tiny@1", "tiny@2", "tiny@3"]
    assert Store(tmp_path / "store", behind=()).aliases("tiny") == {"mixed": 2, "whole": 3}
    (part / "central" / "job.json").write_text("{}")
    with pytest.raises(DataError, match="another training"):
        run(study, tmp_path)


def test_real_cases_need_a_folder_for_every_hospital(tmp_path: Path) -> None:
    (tmp_path / "data" / "c1").mkdir(parents=True)
    with pytest.raises(BadParameter, match="no folder for c2"):
        run(STUDIES["wang2020"], tmp_path, data=tmp_path / "data")
