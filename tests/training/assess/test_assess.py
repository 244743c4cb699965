"""An assessment end to end: figures that follow from the model, kept, reported, drawn."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from imaging.errors import BadParameter, DataError
from models.manifest import Calibration
from models.onnxfile import read_manifest, redescribe
from tests.serving.tiny_model import boxes_ct
from tests.training.assess.boxes import data, model, plant
from training.assess import Power, Release, Settings, assess, card, report
from training.assess.cost import training_seconds
from training.assess.limits import limits
from training.assess.pictures import View, draw
from training.assess.record import Record
from training.assess.robustness import SERIES, curves
from training.assess.run import Assessed
from training.assess.subjects import Bench
from training.calibration import put_into
from training.datasets import open_dataset
from training.planting import Shapes

FEW = {name: SERIES[name] for name in ("noise", "thickness", "turned sideways", "cut from above")}


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Fewer changes, and lesions of boxes."""
    few = {name: dataclasses.replace(s, strengths=s.strengths[-1:]) for name, s in FEW.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.assess.robustness.SERIES", few)
        for room in ("planted", "gallery"):
            patch.setattr(f"training.assess.{room}.plant_copy", plant)
        patch.setattr("training.assess.run.Shapes.open", lambda *a: Shapes("held-out", ()))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("assessed")


@pytest.fixture(scope="module")
def found(home: Path) -> Assessed:
    cases = data(home / "data", "one", "two")
    reference = str(model(home / "model", "one"))
    settings = Settings(copies=1)
    return assess(reference, cases, home / "out", settings, home, command="islet assess x")


def test_the_report_has_every_part(found: Assessed, home: Path) -> None:
    text = report(found)
    assert "| one | 1.000 | 1.000 |" in text, "the model gets all of the boxes right"
    assert "| one | +0 (+0%) | +0 (+0%) |" in text
    assert "| pancreas tumor | 0/2 " in text, "under 1 cm"
    assert "| **a case** | 1.00 |" in text
    assert "differs from case to case" in text
    assert "| one | trained on | pseudo |" in text
    assert "Not measured." not in text
    assert "Nothing was left out for want of confidence" in text
    for name in ("robustness.png", "sensitivity.png"):
        assert f"({name})" in text
        with Image.open(home / "out" / name) as picture:
            assert picture.width > 400
    pictures = sorted(p.name for p in (home / "out" / "gallery").iterdir())
    kinds = ("missed", "untouched", "worst")
    assert pictures == [
        "contact-sheet.png",
        *(f"{c}-{k}.png" for c in ("one", "two") for k in kinds),
    ]


def test_points_of_every_change_are_there(found: Assessed) -> None:
    figures = found.record.of("robustness", found.name)
    by_series = curves(figures)
    assert set(by_series) == set(FEW)
    for series, names in by_series.items():
        assert names["kidney"][SERIES[series].none] == [1.0, 1.0]
    # Turned boxes are still what they are; 80 HU of noise are not.
    assert min(by_series["turned sideways"]["kidney"][30]) > 0.9
    assert max(by_series["noise"]["pancreas"][80]) < 0.9
    assert all("kidney" in p["dice"] for c in figures.values() for p in c["points"])


def test_nothing_is_computed_twice(
    found: Assessed, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(home / "out", tmp_path / "out"))
    monkeypatch.setattr(Bench, "segment", lambda *a: pytest.fail("segmented again"))
    cases, reference = open_dataset(home / "data"), str(home / "model" / "model.onnx")
    again = assess(reference, cases, out, Settings(copies=1), tmp_path)
    assert again.record.figures["parts"] == found.record.figures["parts"]
    monkeypatch.undo()
    fewer = Settings(("planted",), copies=2)
    more = assess(reference, cases[:1], out, fewer, tmp_path).record
    assert len(more.of("planted", found.name)["one"]["lesions"]) == 4
    assert len(more.of("planted", found.name)["two"]["lesions"]) == 2


def test_other_models_are_set_beside(tmp_path: Path) -> None:
    cases = data(tmp_path / "data", "one")
    reference = str(model(tmp_path / "model"))
    settings = Settings(("tables",), structures=("kidney",))
    found = assess(reference, cases, tmp_path / "out", settings, beside=[reference])
    assert found.beside == ("starter (model.onnx)",)
    text = report(found)
    assert "| case | kidney |" in text
    assert "| starter (model.onnx) | 1.000 |" in text
    assert (tmp_path / "out" / "trade-off.png").exists()
    assert text.count("Not measured.") == 3


def test_limits_follow_from_the_figures(found: Assessed) -> None:
    said = limits(found)
    assert "Of 4 planted lesions of the kind pancreas tumor 2 are missed (50%)." in said
    assert "2 lesions are predicted on 2 CTs that are taken as free of them, 1.0 a CT." in said
    assert any(s.startswith("noise added, HU 80: mean Dice of pancreas") for s in said)
    assert any("on real pancreas tumor. Do not rely" in s for s in said)
    assert not any(s.startswith("Weak on") for s in said), "all boxes are found"


def test_the_card_is_made_of_files(found: Assessed, home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"step": 1, "seconds": 1800.0}, {"step": 2, "seconds": 1800.0}]
    (run / "history.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    release = Release.of(str(home / "model" / "model.onnx"), [run], Power(100, 500))
    text = card(found, release)
    assert text.startswith("# starter@live\n")
    assert "| one | 1 | pseudo | X |" in text
    assert "60 minutes of a machine: 0.100 kWh and 50 g of CO2" in text
    assert "of this very file" in text
    assert "islet train test --data YOUR_DATA --from starter@live --out runs/own" in text
    assert "tiny, 3D, 8 weights" in text
    for sentence in limits(found):
        assert sentence in text
    other = model(tmp_path / "other", recipe="other")
    with pytest.raises(DataError, match=r"assessment is of test, .* made by other"):
        card(found, Release(other, "other@1"))
    twin = model(tmp_path / "twin", "more")
    assert "No figure is of this very file." in card(found, Release(twin, "twin@1"))


def test_data_that_a_model_came_back_to_is_named_once(found: Assessed, tmp_path: Path) -> None:
    path = model(tmp_path, "one")
    made = read_manifest(path).provenance
    again = tuple({**entry, "through": "test (0123)"} for entry in made.data)
    redescribe(path, provenance=dataclasses.replace(made, data=(*made.data, *again)))
    assert card(found, Release(path, "test@1")).count("| one | 1 | pseudo | X |") == 1


def test_a_calibrated_models_card_says_how_well_it_is(
    found: Assessed, home: Path, tmp_path: Path
) -> None:
    path = model(tmp_path / "calibrated")
    release = Release.of(str(path), reliability=tmp_path / "reliability.png")
    assert "Not calibrated" in card(found, release)
    row = {"observations": 40, "error_before": 0.2, "error_after": 0.05}
    row |= {"there": 9, "there_kept": 8, "wrong": 7, "wrong_dropped": 6}
    fitted = {
        "cases": ["a", "b"],
        "labels": ["pseudo"],
        "voxel_error_before": 0.3,
        "voxel_error_after": 0.1,
        "structures": {"pancreas_tumor": row},
        "strangers": {"marked": 5, "emptied": 4},
    }
    put_into(path, Calibration(2.0, fitted=fitted))
    text = card(found, release)
    assert "| pancreas tumor | 40 | 0.200 | 0.050 | 8 of 9 | 6 of 7 |" in text
    assert "Fitted on 2 cases and changed copies of them (pseudo)" in text
    assert "![Reliability](reliability.png)" in text


def test_what_calibrated_models_leave_out_is_said(found: Assessed) -> None:
    figures = copy.deepcopy(found.record.figures)
    for case in figures["models"][found.name].values():
        case["calibrated"] = True
    record = SimpleNamespace(figures=figures, of=found.record.of)
    text = report(dataclasses.replace(found, record=record))  # type: ignore[arg-type]
    assert "is left out, as the service does" in text
    assert "Nothing was left out" not in text


def test_a_history_without_seconds_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no training"):
        training_seconds(tmp_path)
    (tmp_path / "history.jsonl").write_text('{"step": 1}\n')
    assert training_seconds(tmp_path) is None
    (tmp_path / "history.jsonl").write_text('{"step": 1, "seconds": 3}\n')
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "rounds.json").write_text(
        '{"rounds": [{"seconds": 4.5}, {"seconds": 2}]}'
    )
    assert training_seconds(tmp_path) == 9.5
    (tmp_path / "results" / "rounds.json").write_text("[]")
    with pytest.raises(DataError, match="does not parse"):
        training_seconds(tmp_path)
    with pytest.raises(BadParameter, match="-1"):
        Power(-1)


def test_pictures_are_in_radiological_view(tmp_path: Path) -> None:
    ct, labels = boxes_ct()
    kidney = labels == 3
    draw(View(ct, kidney, np.zeros_like(kidney), 200.0), "kidney", tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as file:
        picture = np.asarray(file.convert("RGB")).astype(int)
    green = (np.abs(picture - (0, 158, 115)).sum(2) < 60) & (np.arange(len(picture)) < 400)[:, None]
    third = picture.shape[1] // 3
    axial = np.argwhere(green[:, :third])
    # The box is on the patient's left, towards the back, at the lower end of the scan.
    assert axial[:, 1].mean() > 0.55 * third
    assert axial[:, 0].mean() > np.argwhere(green[:, third : 2 * third]).min()


def test_what_cannot_be_assessed_is_refused(tmp_path: Path) -> None:
    cases = data(tmp_path / "data", "one")
    reference = str(model(tmp_path / "model"))
    with pytest.raises(BadParameter, match="no part \\['speed'\\]"):
        Settings(("speed",))
    with pytest.raises(BadParameter, match="no structure 'liwer'"):
        Settings(structures=("liwer",))
    with pytest.raises(BadParameter, match="copies must be 1 or more"):
        Settings(copies=0)
    with pytest.raises(BadParameter, match="--shapes"):
        assess(reference, cases, tmp_path / "out", Settings(("planted",)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "assessment.json").write_text('{"schema": 0}')
    with pytest.raises(DataError, match="schema 0"):
        Record(tmp_path / "out")
    (tmp_path / "out" / "assessment.json").write_text("[")
    with pytest.raises(DataError, match="does not parse"):
        assess(reference, cases, tmp_path / "out", Settings(("tables",)))
    assert read_manifest(Path(reference)).name == "starter"
