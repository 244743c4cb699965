"""A library of real lesions: what is kept of each, which part it is in, and its cache."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from imaging.errors import BadParameter, DataError
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from tests.training.planting.scene import grid, kidneys
from training.planting import PARTS, Shape, Shapes
from training.planting.shapes import part_of, read_shapes


def _told(shape: Shape) -> tuple[object, ...]:
    numbers = (shape.volume_ml, shape.depth, shape.exophytic, *shape.place)
    return (shape.name, shape.kind, shape.size, shape.spacing, numbers, shape.mirrored)


def test_each_lesion_is_kept_with_its_form_and_place(folder: Path) -> None:
    found = {s.kind: s for s in read_shapes(folder / "kits23" / "case_00000.nii.gz")}
    tumor, cyst = found["kidney_tumor"], found["kidney_cyst"]
    assert tumor.name == "kits23/case_00000/kidney_tumor-1"
    assert tumor.case == "kits23/case_00000"
    assert (tumor.mask == (kidneys()[30:43, 14:27, 64:77] == 2)).all()
    assert tumor.volume_ml == pytest.approx((kidneys() == 2).sum() * 0.008)
    assert tumor.diameter_mm == pytest.approx(24, abs=1)
    # The tumor is high in the left kidney, the cyst low in the right one.
    assert tumor.place[0] > 0.4
    assert cyst.place[0] < -0.4
    assert not tumor.mirrored
    assert cyst.mirrored


def test_the_side_of_a_kidney_alone_is_told_by_its_hilum(tmp_path: Path) -> None:
    labels = kidneys()
    labels[:, :, :45] = 0
    labels[20:30, 15:25, 50:62][labels[20:30, 15:25, 50:62] == 1] = 0
    for mirrored in (False, True):
        path = tmp_path / "kits23" / "case_00001.nii.gz"
        seen = np.ascontiguousarray(labels[:, :, ::-1]) if mirrored else labels
        write_nifti(Volume(seen, grid(seen.shape)), path)
        assert [s.mirrored for s in read_shapes(path)] == [mirrored]


def test_what_lies_outside_of_the_hull_is_exophytic(folder: Path) -> None:
    within, beyond = (
        next(s for s in read_shapes(folder / "kits23" / f"case_0000{i}.nii.gz")) for i in (0, 1)
    )
    assert within.exophytic < 0.1
    assert within.depth < -0.3
    assert beyond.exophytic > 0.5
    assert beyond.depth > 0


def test_a_cancer_is_told_from_head_to_tail(folder: Path) -> None:
    (cancer,) = read_shapes(folder / "panorama" / "100000_00001.nii.gz")
    assert cancer.kind == "pancreas_tumor"
    assert cancer.place[2] == pytest.approx((16 - 39.5) / 35.5, abs=0.05)


def test_specks_and_crumbs_are_no_shapes(folder: Path, tmp_path: Path) -> None:
    assert list(read_shapes(folder / "kits23" / "case_99999.nii.gz")) == []
    labels = kidneys()
    labels[5, 20, 66:69] = 3
    write_nifti(Volume(labels, grid(labels.shape)), tmp_path / "kits23" / "case_00000.nii.gz")
    kinds = [s.kind for s in read_shapes(tmp_path / "kits23" / "case_00000.nii.gz")]
    assert kinds == ["kidney_tumor", "kidney_cyst"]


def test_the_parts_share_no_patient_and_miss_none(folder: Path) -> None:
    cases = {part: {s.case for s in Shapes.open(folder, part).shapes} for part in PARTS}
    assert not cases["train"] & cases["held-out"]
    assert len(cases["train"] | cases["held-out"]) == 24
    many = [part_of(f"kits23/case_{i:05d}") for i in range(1000)]
    assert 0.75 < many.count("train") / 1000 < 0.85
    # Said once, for ever: a model's shapes must not become its test's.
    assert part_of("kits23/case_00000") == "train"
    assert all(part_of(f"panorama/{i}_00001") == part_of(f"panorama/{i}_00002") for i in range(50))


def test_sizes_are_chosen_by_diameter(shapes: Shapes) -> None:
    assert shapes.of("kidney_tumor", (20, 30))
    assert not shapes.of("kidney_tumor", (30, 90))
    assert not shapes.of("liver_tumor")


def test_the_cache_gives_the_same_and_follows_the_files(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "some"
    for i in range(3):
        (home / "kits23").mkdir(parents=True, exist_ok=True)
        name = f"case_{i:05d}.nii.gz"
        (home / "kits23" / name).write_bytes((folder / "kits23" / name).read_bytes())
    cache = tmp_path / "kept" / "shapes.npz"
    first = Shapes.open(home, cache=cache)
    again = Shapes.open(home, cache=cache)
    assert cache.is_file()
    assert [_told(s) for s in first.shapes] == [_told(s) for s in again.shapes]
    pairs = zip(first.shapes, again.shapes, strict=True)
    assert all((a.mask == b.mask).all() for a, b in pairs)
    for path in (home / "kits23").iterdir():
        os.utime(path, (0, 0))
        path.write_bytes((folder / "kits23" / "case_99999.nii.gz").read_bytes())
    assert Shapes.open(home, cache=cache).shapes == ()


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no shapes"):
        Shapes.open(tmp_path)
    with pytest.raises(BadParameter, match="'test'"):
        Shapes.open(folder, "test")  # type: ignore[arg-type]
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"bad\.npz is no cache"):
        Shapes.open(folder, cache=tmp_path / "bad.npz")
    hu = Volume(np.zeros((9, 9, 9), np.float32), grid((9, 9, 9)))
    write_nifti(hu, tmp_path / "kits23" / "case_00000.nii.gz")
    with pytest.raises(DataError, match="no label map"):
        Shapes.open(tmp_path)
