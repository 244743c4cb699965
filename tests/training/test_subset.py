"""A subset holds the cases and the labels that were asked for, and nothing of the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import islet
from imaging.errors import BadParameter
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from tests.training.tiny import loaded
from training.cases import Case, load
from training.datasets import open_dataset
from training.datasets.subset import write_subset

NAMES = ("kidney", "kidney_tumor", "pancreas", "liver")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two cases: a kidney with a tumor, a pancreas, and a spleen that the set does not annotate."""
    out = tmp_path / "source"
    entries = []
    for index in range(2):
        hu = loaded(index).image
        labels = np.zeros(hu.array.shape, np.uint8)
        for place, name in enumerate(("kidney", "pancreas", "spleen")):
            labels[:, 8 * place : 8 * place + 6] = BY_NAME[name].value
        labels[4:8, 1:3, 4:8] = BY_NAME["kidney_tumor"].value
        home = out / f"ct_{index}"
        write_nifti(hu, home / "ct.nii.gz")
        write_nifti(hu.with_array(labels), home / "label.nii.gz")
        entries.append({"case": home.name, "annotated": list(NAMES), "licence": "CC0"})
    entries[1]["split"] = "validation"
    values = {str(BY_NAME[n].value): n for n in (*NAMES, "spleen")}
    (out / "index.json").write_text(json.dumps({"labels": values, "cases": entries}))
    return out


def present(case: Case) -> set[str]:
    found = np.unique(load(case).labels.array)
    return {name for name, one in BY_NAME.items() if one.value in found}


def test_labels_outside_of_what_is_kept_are_erased(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "kidneys"
    assert write_subset(open_dataset(source), out, ["ct_1"], ["kidney"]) == ["ct_1"]
    (case,) = open_dataset(out)
    assert (case.annotated, case.split) == (("kidney",), "validation")
    assert present(case) == {"kidney"}
    assert case.source == {"name": "ct_1", "licence": "CC0", "labels": "not stated"}
    # The tumor counts as kidney: no hole is left.
    labels = load(case).labels.array
    assert (labels[:, :6] == BY_NAME["kidney"].value).all()
    assert not labels[:, 6:].any()


def test_without_names_everything_annotated_stays(source: Path, tmp_path: Path) -> None:
    write_subset(open_dataset(source), tmp_path / "all")
    one, two = open_dataset(tmp_path / "all")
    assert one.annotated == two.annotated == NAMES
    # The spleen was labelled by chance, and nobody says that every spleen is.
    assert present(one) == {"kidney", "kidney_tumor", "pancreas"}


def test_a_ct_is_linked_not_copied(source: Path, tmp_path: Path) -> None:
    write_subset(open_dataset(source), tmp_path / "all")
    for name in ("ct_0", "ct_1"):
        there, here = (root / name / "ct.nii.gz" for root in (source, tmp_path / "all"))
        assert there.samefile(here)


def test_dicom_and_other_disks(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicom = tmp_path / "case" / "files"
    dicom.mkdir(parents=True)
    (source / "ct_0" / "ct.nii.gz").rename(dicom / "ct.nii.gz")
    whole = next(c for c in open_dataset_without_check(source) if c.name == "ct_0")
    case = Case(whole.name, dicom, whole.label, whole.values, whole.annotated)

    def refused(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("os.link", refused)
    write_subset([case], tmp_path / "out")
    copied = tmp_path / "out" / "ct_0" / "dicom" / "ct.nii.gz"
    assert copied.read_bytes() == (dicom / "ct.nii.gz").read_bytes()
    assert not copied.samefile(dicom / "ct.nii.gz")


def open_dataset_without_check(source: Path) -> list[Case]:
    (source / "ct_0" / "dicom").mkdir()
    return open_dataset(source)


@pytest.mark.parametrize(
    ("names", "annotated", "message"),
    [
        (["ct_7"], [], "no case ct_7; there are ct_0, ct_1"),
        ([], ["heart"], "no structure 'heart'"),
        ([], ["spleen"], "none of which is to be kept"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_written(
    source: Path, tmp_path: Path, names: list[str], annotated: list[str], message: str
) -> None:
    with pytest.raises(BadParameter, match=message):
        write_subset(open_dataset(source), tmp_path / "out", names, annotated)
    assert not (tmp_path / "out").exists()


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["data", "subset", str(source), "-o", str(out), "--cases", "ct_0", "--annotated"]
    assert islet.main([*command, "pancreas", "liver"]) == 0
    assert capsys.readouterr().out == f"1 cases in {out}: ct_0\n"
    assert open_dataset(out)[0].annotated == ("pancreas", "liver")
    assert islet.main([*command, "pancreas"]) == 2
    assert "is not empty" in capsys.readouterr().err
