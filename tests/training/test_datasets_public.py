"""Public data sets as they are unpacked: names of files, values, splits, what is left out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from imaging.errors import DataError
from imaging.volume import Volume, to_canonical
from tests.training.tiny import grid
from training.cases import load
from training.datasets import DATASETS, kits, layout_of, open_dataset
from training.datasets.make import make_set
from training.datasets.stored import divided, stored_map
from training.kits_groups import annotation_files, sampled_segmentations
from training.phantoms import Phantom

SHAPE = (16, 32, 32)


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


@pytest.mark.parametrize(
    ("files", "layout", "where"),
    [
        (("case_00000/segmentation.nii.gz",), "kits19", "data"),
        (("case_00000/aggregated_MAJ_seg.nii.gz",), "kits21", "kits21/data"),
        (("case_00000/segmentation.nii.gz", "kits23.json"), "kits23", "dataset"),
        (("case_00400/segmentation.nii.gz",), "kits23", "dataset"),
        (("case_00000/segmentation.nii.gz", "case_00000/instances/a"), "kits23", "dataset"),
    ],
)
def test_the_years_of_kits(tmp_path: Path, files: tuple[str, ...], layout: str, where: str) -> None:
    root = tmp_path / where
    name = Path(files[0]).parent.name
    touch(root, *files, f"{name}/imaging.nii.gz", "case_00299/imaging.nii.gz")
    for folder in (root, tmp_path):
        assert [n for n, other in DATASETS.items() if other.detect(folder)] == [layout]
        (case,) = open_dataset(folder)
        assert case.name == name
        assert case.values[1] == "kidney"
        assert case.values[2] == "kidney_tumor"
        assert ("kidney_cyst" in case.annotated) == (layout != "kits19")
        assert (case.values.get(3) == "kidney_cyst") == (layout != "kits19")


def test_a_segmentation_without_its_ct_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "case_00007/segmentation.nii.gz")
    with pytest.raises(DataError, match=r"Case case_00007: needs case_00007/imaging\.nii\.gz"):
        open_dataset(tmp_path)


def test_annotators_of_kits21_agree_by_majority(tmp_path: Path) -> None:
    labels = np.zeros((20, 16, 24), np.uint8)
    labels[2:16, 3:12, 2:7] = labels[3:15, 2:12, 15:22] = 3
    labels[4:8, 4:8, 3:6] = labels[10:14, 5:9, 17:20] = 4
    labels[9, 4, 3] = 5
    where = dataclasses.replace(grid(labels.shape), origin=(-28.0, 10.0, 5.0))
    hu = Volume(labels.astype(np.int16) * 10, where)
    kits.write_2021(tmp_path, [Phantom(hu, Volume(labels, where), ("kidney",), ())])
    (case,) = open_dataset(tmp_path)
    files = annotation_files(case.image.parent)
    assert [len(of) for of in (files.kidney, files.tumor, files.cyst)] == [2, 2, 1]
    assert {len(one) for one in (*files.kidney, *files.tumor, *files.cyst)} == {3}
    for kind, value in (("kidney", 3), ("tumor", 4), ("cyst", 5)):
        majority = np.zeros(labels.shape, np.bool_)
        for instance in getattr(files, kind):
            drawn = [load_mask(case.image, path) for path in instance]
            assert not np.array_equal(drawn[0], drawn[1])
            majority |= sum(mask.astype(int) for mask in drawn) >= 2
        assert np.array_equal(majority, labels == value)
    read = to_canonical(load(case).labels)
    assert np.array_equal(read.array, labels)
    # The right kidney is the first instance.
    right = load_mask(case.image, files.kidney[0][0])
    assert where.to_world(np.argwhere(right))[:, 0].max() < 0
    for sample in sampled_segmentations(files, lambda path: load_mask(case.image, path)):
        assert sample[6, 6, 4] == 4
        assert set(np.unique(sample)) == {0, 3, 4, 5}


def load_mask(image: Path, path: Path) -> np.ndarray:
    """An annotation (Z, Y, X); its file has the axes of the CT's, slices first."""
    mask = nib.load(path)
    assert np.allclose(mask.affine, nib.load(image).affine)
    drawn: np.ndarray = np.asarray(mask.dataobj) == 1
    return drawn


@pytest.mark.parametrize("above", ["", "Training", "RawData/Training", "Abdomen/RawData/Training"])
def test_btcv(tmp_path: Path, above: str) -> None:
    root = touch(tmp_path / above, "img/img0001.nii.gz", "label/label0001.nii.gz")
    for folder in (tmp_path, root, root / "img", root / "label"):
        (case,) = DATASETS["btcv"].read(folder)
        assert layout_of(folder) == "btcv"
    assert case.image == root / "img" / "img0001.nii.gz"
    assert case.values == {
        1: "spleen",
        2: "kidney",
        3: "kidney",
        4: "gallbladder",
        5: "esophagus",
        6: "liver",
        7: "stomach",
        11: "pancreas",
    }
    touch(root, "label/label0002.nii.gz")
    with pytest.raises(DataError, match=r"Case btcv_0002: needs img/img0002\.nii\.gz"):
        open_dataset(tmp_path)


def test_amos_leaves_mri_out(tmp_path: Path) -> None:
    for part, numbers in (("Tr", ("0001", "0499", "0500", "0507")), ("Va", ("0008", "0540"))):
        for number in numbers:
            touch(tmp_path / "amos22", f"images{part}/amos_{number}.nii.gz")
            touch(tmp_path / "amos22", f"labels{part}/amos_{number}.nii.gz")
    (tmp_path / "amos22" / "dataset.json").write_text('{"labels": {}, "training": []}')
    cases = open_dataset(tmp_path)
    assert [(c.name, c.split) for c in cases] == [
        ("amos_0001", "train"),
        ("amos_0499", "train"),
        ("amos_0008", "validation"),
    ]
    assert (cases[0].values[2], cases[0].values[13]) == ("kidney", "duodenum")
    assert {8, 9, 11, 12, 14, 15}.isdisjoint(cases[0].values)
    assert layout_of(tmp_path / "amos22" / "imagesTr") == "amos"


def test_flare_of_both_years(tmp_path: Path) -> None:
    first = touch(
        tmp_path / "FLARE21", "TrainingImg/train_000_0000.nii.gz", "TrainingMask/train_000.nii.gz"
    )
    (case,) = open_dataset(first)
    assert case.values == {1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"}
    assert case.source["name"] == "FLARE21"
    assert open_dataset(first / "TrainingMask") == [case]
    second = touch(
        tmp_path / "FLARE22Train",
        "images/FLARE22_Tr_0001_0000.nii.gz",
        "labels/FLARE22_Tr_0001.nii.gz",
    )
    (case,) = open_dataset(second)
    assert (case.values[2], case.values[13], case.values[9]) == ("kidney", "kidney", "gallbladder")
    assert case.source["name"] == "FLARE22"
    (second / "images" / "FLARE22_Tr_0001_0000.nii.gz").unlink()
    with pytest.raises(DataError, match=r"Case FLARE22_Tr_0001: needs images/FLARE22_Tr_0001_0000"):
        open_dataset(second)


def test_panorama_takes_what_people_drew_first(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "batch_1/100001_00001_0000.nii.gz",
        "images/100002_00001_0000.nii.gz",
        "panorama_labels-main/manual_labels/100001_00001.nii.gz",
        "panorama_labels-main/automatic_labels/100001_00001.nii.gz",
        "panorama_labels-main/automatic_labels/100002_00001.nii.gz",
        "panorama_labels-main/automatic_labels/100003_00001.nii.gz",
    )
    assert layout_of(tmp_path) == "panorama"
    first, second = open_dataset(tmp_path / "images")
    assert first.label is not None
    assert first.label.parent.name == "manual_labels"
    assert "investigators" in first.source["labels"]
    assert "network, unreviewed" in second.source["labels"]
    assert first.values == {1: "pancreas_tumor", 4: "pancreas", 5: "pancreas"}
    touch(tmp_path, "batch_1/100009_00001_0000.nii.gz")
    with pytest.raises(DataError, match=r"Case 100009_00001: has no label 100009_00001\.nii\.gz"):
        open_dataset(tmp_path)


NIH_LABEL = "TCIA_pancreas_labels-02-05-2017/label{}.nii.gz"


def test_nih_leaves_withdrawn_cases_out(tmp_path: Path) -> None:
    images = "manifest-1599750808610/Pancreas-CT"
    touch(tmp_path, f"{images}/PANCREAS_0001/a/b/1-001.dcm", *map(NIH_LABEL.format, ("0001",)))
    touch(tmp_path, *map(NIH_LABEL.format, ("0025", "0070")))
    (case,) = open_dataset(tmp_path / "TCIA_pancreas_labels-02-05-2017")
    assert case.name == "PANCREAS_0001"
    assert case.image == tmp_path / images / "PANCREAS_0001"
    touch(tmp_path, NIH_LABEL.format("0002"))
    with pytest.raises(DataError, match="Case PANCREAS_0002: needs Pancreas-CT/PANCREAS_0002"):
        open_dataset(tmp_path)
    touch(tmp_path, "Pancreas-CT/PANCREAS_0001/1-001.dcm")
    with pytest.raises(DataError, match=r"Case PANCREAS_0001: lies in .* and in .*; keep one"):
        open_dataset(tmp_path)


def test_nih_labels_lie_where_their_header_says(tmp_path: Path) -> None:
    make_set("nih_pancreas", tmp_path, 1, 2, "b-thick-portal", SHAPE)
    (case,) = open_dataset(tmp_path)
    slices = [pydicom.dcmread(path) for path in sorted(case.image.rglob("*.dcm"))]
    assert len(slices) == SHAPE[0]
    assert {ds.Modality for ds in slices} == {"CT"}
    before = load(case)
    assert before.labels.array.any()
    assert case.label is not None
    stored = nib.load(case.label)
    # Rows of the label file run against those of the series, as its header says.
    raw = np.asarray(stored.dataobj).transpose()
    assert np.array_equal(raw[:, ::-1], before.labels.array)
    # A header that says otherwise places the labels off the CT.
    moved = stored.affine.copy()
    moved[1, 3] = 0.0
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), moved), case.label)
    with pytest.raises(DataError, match=r"Case PANCREAS_0001: .* label0001\.nii\.gz .* one grid"):
        load(case)


def _totalsegmentator(root: Path) -> Path:
    names = ["pancreas", "liver", "spleen", "gallbladder", "stomach", "duodenum", "esophagus"]
    names += ["colon", "kidney_left", "kidney_right"]
    names += [
        f"lung_{lobe}_lobe_{side}" for lobe in ("upper", "lower") for side in ("left", "right")
    ]
    names += ["lung_middle_lobe_right", "heart"]
    for case in ("s0001", "s0011", "s1429"):
        touch(root / case, "ct.nii.gz", *(f"segmentations/{name}.nii.gz" for name in names))
    return root


def test_totalsegmentator(tmp_path: Path) -> None:
    root = _totalsegmentator(tmp_path / "Totalsegmentator_dataset_v201")
    cases = open_dataset(tmp_path)
    assert {c.split for c in cases} == {"train"}
    assert "kidney_cyst" not in cases[0].annotated
    assert {p.name for p in cases[0].masks["kidney"]} == {
        "kidney_left.nii.gz",
        "kidney_right.nii.gz",
    }
    assert len(cases[0].masks["lung"]) == 5
    assert cases[0].label is None
    meta = "\ufeffimage_id;age;split\ns0001;60;test\ns0011;61;val\ns1429;62;train\n"
    (root / "meta.csv").write_text(meta, encoding="utf-8")
    assert [c.split for c in open_dataset(root)] == ["test", "validation", "train"]
    cysts = [f"segmentations/kidney_cyst_{side}.nii.gz" for side in ("left", "right")]
    touch(root / "s0011", *cysts)
    assert ["kidney_cyst" in c.annotated for c in open_dataset(root)] == [False, True, False]
    (root / "s0011" / cysts[0]).unlink()
    with pytest.raises(DataError, match="Case s0011: needs segmentations/kidney_cyst_left"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ("image_id;split\ns0001;train\n", "Case s0011: meta.csv does not list it"),
        ("image_id;split\ns0001;dev\n", "does not parse"),
        ("image_id,split\ns0001,train\n", "does not parse"),
    ],
)
def test_a_faulty_meta_csv_is_refused(tmp_path: Path, meta: str, said: str) -> None:
    _totalsegmentator(tmp_path)
    (tmp_path / "meta.csv").write_text(meta)
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path)


def test_sides_and_lobes_of_a_structure() -> None:
    where = dataclasses.replace(grid((6, 2, 4)), origin=(-3.75, 0.0, 0.0))
    labels = np.zeros((6, 2, 4), np.uint8)
    labels[:, 0] = 3
    # x is -3.75, -1.25, 1.25, 3.75: the patient's left is the last two columns.
    stored = stored_map(Volume(labels, where), {7: "right kidney", 9: "kidney_left"}).array
    assert np.array_equal(stored[:, 0], np.tile([7, 7, 9, 9], (6, 1)))
    assert not stored[:, 1].any()
    names = ["lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right", "left"]
    upper, middle, lower, left = divided(labels == 3, where, names)
    assert np.array_equal(np.flatnonzero(upper.any(axis=(1, 2))), [4, 5])
    assert np.array_equal(np.flatnonzero(middle.any(axis=(1, 2))), [2, 3])
    assert np.array_equal(np.flatnonzero(lower.any(axis=(1, 2))), [0, 1])
    assert left.sum() == 12
    assert [m.any() for m in divided(labels == 1, where, names)] == [False] * 4
