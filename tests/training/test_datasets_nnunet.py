"""nnU-Net raw folders: endings, regions, the test split, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imaging.errors import DataError
from training.datasets import layout_of, open_dataset

META = {
    "name": "Kidneys",
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "kidney": [1, 2], "tumor": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def _write(root: Path, ending: str = ".nii.gz", **changes: Any) -> Path:
    for part, names in (("Tr", ("a", "b")), ("Ts", ("c",))):
        for folder, suffix in ((f"images{part}", "_0000"), (f"labels{part}", "")):
            (root / folder).mkdir(parents=True)
            for name in names:
                (root / folder / f"{name}{suffix}{ending}").touch()
    meta = META | {"file_ending": ending} | changes
    (root / "dataset.json").write_text(json.dumps(meta))
    return root


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_pairs_and_splits(tmp_path: Path, ending: str) -> None:
    root = _write(tmp_path / "Dataset001_Kidneys", ending)
    assert layout_of(root) == "nnunet"
    cases = open_dataset(tmp_path)
    assert [(c.name, c.split) for c in cases] == [("a", "train"), ("b", "train"), ("c", "test")]
    assert cases[0].image == root / "imagesTr" / f"a_0000{ending}"
    assert cases[2].label == root / "labelsTs" / f"c{ending}"
    assert cases[0].values == {1: "kidney", 2: "kidney_tumor"}
    assert cases[0].annotated == ("kidney", "kidney_tumor")
    assert cases[0].source == {
        "name": "Kidneys",
        "licence": "not stated",
        "labels": "as published",
    }
    assert open_dataset(root / "labelsTs") == cases


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "imagesTr" / "b_0000.nii.gz").unlink()
    with pytest.raises(DataError, match=r"Case b: needs imagesTr/b_0000\.nii\.gz"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ["kidney"]}, "not in nnU-Net's form"),
        ({"labels": {"kidney": "one"}}, "not in nnU-Net's form"),
        ({"labels": {"kidney": 1, "ignore": 2}}, "'ignore' leaves voxels open"),
        ({"labels": {"background": 0, "brain": 1}}, r"\['brain'\] is a structure"),
        ({"channel_names": {"0": "T2"}}, "channel 0 is 'T2'"),
        ({"channel_names": "CT"}, "not in nnU-Net's form"),
    ],
)
def test_what_islet_cannot_learn_from_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    _write(tmp_path, **changes)
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path)
