"""Data set layouts: how a folder is known, the Decathlon's form, the index, what is missing."""

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
from training.datasets import DATASETS, layout_of, open_dataset
from training.datasets.decathlon import TASKS


def _real() -> Path:
    root = os.environ.get("ISLET_DATA")
    near = (parent / "shared" / "data" for parent in Path(__file__).resolve().parents[1:4])
    return next((p for p in ([Path(root)] if root else near) if p.is_dir()), Path("absent"))


def _rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "dataset.json"
    meta = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))


def test_the_decathlons_form(tmp_path: Path) -> None:
    cases = open_dataset(write_decathlon(tmp_path))
    assert [c.name for c in cases] == ["blocks_0", "blocks_1"]
    assert cases[0].values == {1: "pancreas", 3: "kidney"}
    assert cases[0].annotated == ("pancreas", "kidney")
    assert {c.split for c in cases} == {"train"}
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


@pytest.mark.parametrize(
    ("task", "annotated"),
    [
        ("liver", ("liver", "liver_tumor")),
        ("lung", ("lung_tumor",)),
        ("pancreas", ("pancreas", "pancreas_tumor")),
        ("hepatic_vessel", ("hepatic_vessel", "liver_tumor")),
        ("spleen", ("spleen",)),
        ("colon", ("colon_tumor",)),
    ],
)
def test_the_decathlons_tasks(task: str, annotated: tuple[str, ...], tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    labels = {"0": "background", **{str(v): n for v, n in TASKS[task].labels.items()}}
    _rewrite(tmp_path, name=TASKS[task].name, labels=labels, modality={"0": "CT"})
    cases = open_dataset(tmp_path)
    assert cases[0].annotated == TASKS[task].structures == annotated
    assert cases[0].values == dict(enumerate(annotated, 1))


def test_images_with_the_suffix_of_the_first_nnunet_are_found(tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    for image in (tmp_path / "imagesTr").iterdir():
        image.rename(image.with_name(image.name.replace(".nii", "_0000.nii")))
    assert [c.image.name for c in open_dataset(tmp_path)] == [
        "blocks_0_0000.nii.gz",
        "blocks_1_0000.nii.gz",
    ]


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_a_missing_file_is_named(tmp_path: Path, folder: str) -> None:
    write_decathlon(tmp_path)
    (tmp_path / folder / "blocks_1.nii.gz").unlink()
    with pytest.raises(DataError, match=rf"Case blocks_1: needs {folder}/blocks_1\.nii\.gz, which"):
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
        '{"labels": {"1": "liver"}, "training": [], "modality": "CT"}',
    ],
)
def test_a_broken_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json is not in the Decathlon's form"):
        open_dataset(tmp_path)


def test_no_ct_and_no_structure_are_refused(tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    _rewrite(tmp_path, modality={"0": "MRI"})
    with pytest.raises(DataError, match="modality 'MRI'"):
        open_dataset(tmp_path)
    _rewrite(tmp_path, modality=None, labels={"1": "Anterior", "2": "Posterior"})
    with pytest.raises(DataError, match=r"\['Anterior', 'Posterior'\]"):
        open_dataset(tmp_path)


def test_no_case_and_no_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set of a known layout"):
        open_dataset(tmp_path)
    (tmp_path / "file.txt").touch()
    with pytest.raises(DataError, match="no data set of a known layout"):
        open_dataset(tmp_path / "file.txt")
    with pytest.raises(DataError, match="no data set in this layout"):
        DATASETS["kits21"].read(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": {"1": "liver"}, "training": []}')
    with pytest.raises(DataError, match="lists no case"):
        open_dataset(tmp_path)


def test_a_set_is_found_from_above_and_from_within(tmp_path: Path) -> None:
    root = write_decathlon(tmp_path / "Task07_Pancreas")
    for folder in (root, tmp_path, root / "imagesTr", root / "labelsTr"):
        assert layout_of(folder) == "decathlon"
        assert [c.name for c in open_dataset(folder)] == ["blocks_0", "blocks_1"]
    with pytest.raises(DataError, match="no data set"):
        open_dataset(tmp_path.parent)


def test_several_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_decathlon(tmp_path / "Task07_Pancreas")
    write_decathlon(tmp_path / "Task09_Spleen")
    with pytest.raises(DataError, match="name one of Task07_Pancreas, Task09_Spleen"):
        open_dataset(tmp_path)


def test_several_layouts_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_decathlon(tmp_path / "Task07_Pancreas")
    (tmp_path / "data" / "case_00000").mkdir(parents=True)
    (tmp_path / "data" / "case_00000" / "aggregated_MAJ_seg.nii.gz").touch()
    with pytest.raises(DataError, match=r"several data sets \(decathlon in .*, kits21 in "):
        layout_of(tmp_path)
    # What lies in the folder itself goes before what lies below.
    write_decathlon(tmp_path)
    assert layout_of(tmp_path) == "decathlon"


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


def test_an_index_says_what_each_case_has(tmp_path: Path) -> None:
    for name, image in (("a", "ct.nii.gz"), ("b", "dicom")):
        (tmp_path / name).mkdir()
        for file in (image, "label.nii.gz"):
            (tmp_path / name / file).touch()
    entries = [
        {"case": "a", "annotated": ["liver"], "licence": "CC0", "label": "manual"},
        {"case": "b", "annotated": ["spleen"], "provenance": "somewhere"},
    ]
    index = {"labels": {"2": "liver", "5": "spleen"}, "cases": entries}
    (tmp_path / "index.json").write_text(json.dumps(index))
    first, second = open_dataset(tmp_path)
    assert (first.annotated, second.annotated) == (("liver",), ("spleen",))
    assert first.values == second.values == {2: "liver", 5: "spleen"}
    assert first.source == {"name": "a", "licence": "CC0", "labels": "manual"}
    assert second.image == tmp_path / "b" / "dicom"
    assert second.source["name"] == "somewhere"


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
