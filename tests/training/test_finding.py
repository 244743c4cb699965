"""What a finder spares and costs is judged by labels of cases that neither network saw."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import islet
from imaging.errors import BadParameter
from imaging.geometry import Geometry
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.manifest import Provenance
from models.onnxfile import read_finder, read_manifest, redescribe
from models.predict import network_input
from tests.serving.tiny_model import CENTRES, logits_model
from training.assess.subjects import Bench, subjects
from training.cases import Case
from training.datasets import ct_index, open_dataset
from training.finding import LOSS, Spared, attach, judge, table
from training.package import onnx_scorer

ORGAN = np.s_[20:30, 24:40, 50:70]
# A rod of one voxel's width, far from the organ, which is lost in the finder's blocks.
ROD = np.s_[4, :, 4]
GRID = Geometry((48, 60, 90), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), np.eye(3)[:, ::-1])


def made(folder: Path, *parts: tuple[object, ...], name: str = "one") -> Case:
    """A case whose kidney is made of these parts."""
    hu, labels = np.full(GRID.shape, -100, np.int16), np.zeros(GRID.shape, np.uint8)
    for part in parts:
        hu[part], labels[part] = int(CENTRES["kidney"]), 3
    image, label = folder / f"{name}.nii.gz", folder / f"{name}-label.nii.gz"
    write_nifti(Volume(hu, GRID), image)
    write_nifti(Volume(labels, GRID), label)
    return Case(name, image, label, {3: "kidney"}, ("kidney",), {"name": "made"})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return logits_model(tmp_path / "model.onnx", "tiny")


@pytest.fixture
def finder(tmp_path: Path) -> Path:
    return logits_model(tmp_path / "finder.onnx", "tiny-finder", 8.0)


def test_it_is_judged_and_written(model: Path, finder: Path, tmp_path: Path) -> None:
    cases = [made(tmp_path, ORGAN), made(tmp_path, ORGAN, name="two")]
    spared = judge(str(model), str(finder), cases, 10.0)
    assert spared.whole == spared.part == {"kidney": 1.0}
    assert spared.loss == 0
    assert 0 < spared.visited < 0.5
    assert (spared.everywhere, spared.cases) == (0, ("one", "two"))
    plain = read_manifest(model)
    found = attach(model, finder, spared)
    assert found == read_manifest(model)
    assert found.finder is not None
    assert found.finder.margin_mm == 10
    assert found.finder.fitted["part"] == {"kidney": 1.0}
    assert dataclasses.replace(found, finder=None) == plain
    assert read_finder(model.read_bytes(), found.finder) == finder.read_bytes()


def test_an_assessment_visits_what_serving_would(model: Path, finder: Path, tmp_path: Path) -> None:
    case = made(tmp_path, ORGAN)
    attach(model, finder, judge(str(model), str(finder), [case], 10.0))
    (subject,) = subjects(str(model), [case])
    bench, scorer = Bench(subject), onnx_scorer(model)
    sizes = []
    bench.__dict__["scorer"] = lambda patches: (sizes.append(patches.size), scorer(patches))[1]
    bench.segment(bench.loaded.image)
    assert 0 < sum(sizes) < 0.5 * network_input(bench.loaded.image, subject.manifest)[0].size


def test_what_the_crop_loses_is_seen_and_refused(model: Path, finder: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    cases = [made(tmp_path, ORGAN, ROD)]
    spared = judge(str(model), str(finder), cases, 4.0)
    assert spared.whole == {"kidney": 1.0}
    assert LOSS < spared.loss < 0.02
    with pytest.raises(BadParameter, match="raise --margin"):
        attach(model, finder, spared)
    assert model.read_bytes() == before
    # With as much around that the box holds the rod, everything is visited.
    wide = judge(str(model), str(finder), cases, 200.0)
    assert (wide.loss, wide.everywhere, wide.visited) == (0, 1, 1)


def test_a_gain_here_does_not_pay_for_a_loss_there() -> None:
    spared = Spared(
        {"kidney": 0.9, "liver": 0.9}, {"kidney": 0.95, "liver": 0.89}, 0.5, 0, ("one",), 60.0
    )
    assert spared.loss == pytest.approx(0.01)
    assert "| liver | 0.9000 | 0.8900 |" in table(spared)


def test_what_was_trained_on_a_case_does_not_judge_it(
    model: Path, finder: Path, tmp_path: Path
) -> None:
    cases = [made(tmp_path, ORGAN)]
    redescribe(finder, provenance=Provenance("tiny", data=({"name": "made"},)))
    with pytest.raises(BadParameter, match="was trained on one"):
        judge(str(model), str(finder), cases, 10.0)


def test_without_a_structure_to_score_nothing_is_known(
    model: Path, finder: Path, tmp_path: Path
) -> None:
    liver = dataclasses.replace(made(tmp_path, ORGAN), values={3: "liver"}, annotated=("liver",))
    with pytest.raises(BadParameter, match="has a structure to score"):
        judge(str(model), str(finder), [liver], 10.0)


def test_the_command(
    model: Path, finder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    case = made(tmp_path, ORGAN)
    (data / "one").mkdir(parents=True)
    case.image.rename(data / "one" / "ct.nii.gz")
    assert case.label is not None
    case.label.rename(data / "one" / "label.nii.gz")
    ct_index.write_index(data, [ct_index.entry_of(case, case.annotated)])
    assert [c.name for c in open_dataset(data)] == ["one"]
    given = ["finder", str(model), str(finder), "--data", str(data), "--margin", "12"]
    assert islet.main([*given, "--finder", str(finder), "--into", str(model)]) == 0
    assert "| kidney | 1.0000 | 1.0000 |" in capsys.readouterr().out
    found = read_manifest(model).finder
    assert found is not None
    assert found.margin_mm == 12
    assert islet.main([*given, "--into", str(model)]) == 2
    assert "--finder" in capsys.readouterr().err
