"""Data set layouts: names, synonyms, nnU-Net's form, what is missing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imaging.errors import DataError
from models.labels import BY_NAME
from tests.training.tiny import write_decathlon
from training.cases import load
from training.datasets import open_dataset
from training.datasets.decathlon import structures


def _real() -> Path:
    root = os.environ.get("ISLET_DATA")
    near = (parent / "shared" / "data" for parent in Path(__file__).resolve().parents[1:4])
    return next((p for p in ([Path(root)] if root else near) if p.is_dir()), Path("absent"))


def _rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "dataset.json"
    meta = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({1: "pancreas", 2: "cancer"}, {1: "pancreas", 2: "pancreas_tumor"}),
        ({1: "Kidney", 2: "Tumour"}, {1: "kidney", 2: "kidney_tumor"}),
        (
            {1: "kidney", 2: "tumor", 3: "cyst"},
            {1: "kidney", 2: "kidney_tumor", 3: "kidney_cyst"},
        ),
        ({1: "right kidney", 2: "kidney_left", 3: "aorta"}, {1: "kidney", 2: "kidney"}),
        ({1: "Spleen", 4: "oesophagus"}, {1: "spleen", 4: "esophagus"}),
        # A tumor of the liver is liver, not background.
        ({1: "liver", 2: "cancer"}, {1: "liver", 2: "liver"}),
        # Whose tumor is it? Nobody's, rather than a wrong one.
        ({1: "pancreas", 2: "kidney", 3: "tumor"}, {1: "pancreas", 2: "kidney"}),
        ({1: "vessel", 2: "tumour"}, {}),
    ],
)
def test_names(names: dict[int, str], expected: dict[int, str]) -> None:
    assert structures(names) == expected


def test_the_decathlons_form(tmp_path: Path) -> None:
    cases = open_dataset(write_decathlon(tmp_path))
    assert [c.name for c in cases] == ["blocks_0", "blocks_1"]
    assert cases[0].values == {1: "pancreas", 3: "kidney"}
    assert cases[0].annotated == ("pancreas", "kidney")
    assert cases[0].source == {
        "name": "blocks",
        "licence": "Apache-2.0",
        "labels": "as published",
    }


def test_more_may_be_annotated_than_has_a_value(tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    _rewrite(tmp_path, islet_annotated=["kidney", "kidney_tumor"])
    annotated = open_dataset(tmp_path)[0].annotated
    assert annotated == ("pancreas", "kidney", "kidney_tumor")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nnunets_form(tmp_path: Path, ending: str) -> None:
    write_decathlon(tmp_path)
    for name in ("blocks_0", "blocks_1"):
        images = tmp_path / "imagesTr"
        (images / f"{name}.nii.gz").rename(images / f"{name}_0000{ending}")
        labels = tmp_path / "labelsTr"
        (labels / f"{name}.nii.gz").rename(labels / f"{name}{ending}")
    _rewrite(
        tmp_path,
        training=None,
        file_ending=ending,
        labels={"background": 0, "pancreas": 1, "kidney": 3, "both": [1, 3]},
    )
    cases = open_dataset(tmp_path)
    assert [c.name for c in cases] == ["blocks_0", "blocks_1"]
    assert cases[0].values == {1: "pancreas", 3: "kidney"}
    assert set(np.unique(load(cases[1]).labels.array)) == {0, 1, 3}


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_a_missing_file_is_named(tmp_path: Path, folder: str) -> None:
    write_decathlon(tmp_path)
    (tmp_path / folder / "blocks_1.nii.gz").unlink()
    with pytest.raises(DataError, match=r"blocks_1\.nii\.gz, which is not there"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"labels": {"1": "liver"}}',
        '{"labels": ["liver"], "training": []}',
        '{"labels": {"1": "liver"}, "training": [{"image": "a"}]}',
        '{"labels": {"1": "liver"}, "training": [], "islet_annotated": 3}',
    ],
)
def test_a_broken_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json is not in"):
        open_dataset(tmp_path)


def test_no_case_and_no_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of dataset\.json, index\.json"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": {"1": "liver"}, "training": []}')
    with pytest.raises(DataError, match="lists no case"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "does not parse"),
        ("[]", "does not parse"),
        ('{"labels": {"x": "liver"}, "cases": []}', "does not parse"),
        ('{"labels": {}, "cases": [{"annotated": []}]}', "does not parse"),
        ('{"labels": {}, "cases": [{"case": "a", "annotated": []}]}', "Case a: needs label"),
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, index: str, message: str) -> None:
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)


def test_annotated_must_be_a_list(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("ct.nii.gz", "label.nii.gz"):
        (tmp_path / "a" / name).touch()
    index = {"labels": {}, "cases": [{"case": "a", "annotated": "liver"}]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="must be a list"):
        open_dataset(tmp_path)


@pytest.mark.skipif(not (_real() / "ct").is_dir(), reason="no real CTs at $ISLET_DATA")
@pytest.mark.parametrize("name", ["tcga_coad", "totalseg_example"])
def test_real_cts(name: str) -> None:
    cases = {case.name: case for case in open_dataset(_real() / "ct")}
    assert len(cases) == 5
    case = load(cases[name])
    entry = next(
        e
        for e in json.loads((_real() / "ct" / "index.json").read_text())["cases"]
        if e["case"] == name
    )
    # The index's millilitres, counted here on the CT's own grid (DICOM for the first).
    for value, expected in entry["volumes_ml"].items():
        found = np.count_nonzero(case.labels.array == int(value)) * case.image.geometry.voxel_ml
        assert found == pytest.approx(expected, rel=0.02), value
    liver = case.image.array[case.labels.array == BY_NAME["liver"].value]
    assert 20 < np.median(liver) < 160
