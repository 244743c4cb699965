"""Faults that only a comparison of cases and of data sets shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imaging.volume import Volume
from tests.training.bodies import SHAPE, Bodies, body, given, only, with_value
from training.check import check, run_check


@pytest.fixture
def bodies(tmp_path: Path) -> Bodies:
    """Three sound cases."""
    return Bodies(tmp_path / "bodies", range(3))


def test_two_data_sets_with_one_scan_and_one_name(bodies: Bodies, tmp_path: Path) -> None:
    other = Bodies(tmp_path / "other", range(2, 5))
    report = check([bodies.folder, other.folder, bodies.folder])
    # The same folder twice is looked at once.
    assert report.cases == 6
    assert [(f.code, f.dataset, f.case) for f in report.findings] == [
        ("duplicate_name", str(other.folder), "body_2"),
        ("duplicate_voxels", str(other.folder), "body_2"),
    ]
    assert "(train) has the voxels of body_2 (train) of" in report.findings[1].cause
    assert str(bodies.folder) in report.findings[0].cause


def test_a_scan_is_known_again_in_another_split_file_type_and_order_of_axes(
    bodies: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = bodies.cases()
    cases[2] = dataclasses.replace(cases[2], split="test")
    given(monkeypatch, cases)
    image = nib.load(cases[0].image)
    voxels = np.asarray(image.dataobj).astype(np.float32)[::-1].transpose(2, 0, 1)
    affine = image.affine @ np.array(
        [[0, -1, 0, SHAPE[2] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    )
    nib.save(nib.Nifti1Image(voxels, affine), cases[2].image)
    finding = only(check([bodies.folder]))
    assert (finding.code, finding.case) == ("duplicate_voxels", "body_2")
    assert "its CT (test) has the voxels of body_0 (train)" in finding.cause


def test_one_voxel_makes_another_scan(bodies: Bodies) -> None:
    bodies.put("imagesTr", 1, with_value(body(2)[0], 77))
    assert not check([bodies.folder]).findings


def test_values_that_many_cases_have_are_other_structures(bodies: Bodies) -> None:
    for seed in (0, 2):
        bodies.put("labelsTr", seed, with_value(body(seed)[1], 77))
    bodies.put("labelsTr", 1, with_value(body(1)[1], 78))
    found = {f.code: f for f in check([bodies.folder]).findings}
    assert set(found) == {"unnamed_value", "stray_value"}
    assert "77 in 2" in found["unnamed_value"].cause
    assert found["unnamed_value"].case == ""
    assert found["stray_value"].case == "body_1"


def test_a_structure_in_no_case(tmp_path: Path) -> None:
    labels = {"6": "liver", "7": "spleen", "1": "pancreas", "3": "kidney"}
    for count, code in ((4, "absent_structure"), (5, "absent_organ")):
        bodies = Bodies(tmp_path / str(count), range(count))
        bodies.describe({**labels, "8": "gallbladder"})
        finding = only(check([bodies.folder]))
        assert (finding.code, finding.case) == (code, "")
        assert finding.cause == f"gallbladder is in none of {count} cases"
        bodies.describe({**labels, "4": "kidney_tumor"})
        assert only(check([bodies.folder])).code == "absent_structure"


@pytest.mark.parametrize(("slices_mm", "codes"), [(7.9, set()), (8.1, {"spacing_outlier"})])
def test_a_spacing_far_from_the_median(tmp_path: Path, slices_mm: float, codes: set[str]) -> None:
    bodies = Bodies(tmp_path, range(5))
    bodies.rescale(3, (slices_mm, 4.0, 4.0))
    report = check([tmp_path])
    assert {f.code for f in report.findings} == codes
    assert {f.case for f in report.findings} <= {"body_3"}
    assert run_check([tmp_path])[1] == 0


def test_spacings_that_vary_anyway_have_no_outlier(tmp_path: Path) -> None:
    bodies = Bodies(tmp_path, range(5))
    # Of the logarithms' distances from the median (4 mm) the median is log 1.5, so that
    # 5 x 1.4826 of it lie as far as a factor of 20.
    for seed, slices_mm in enumerate((2.6, 2.7, 4.0, 6.0, 10.0)):
        bodies.rescale(seed, (slices_mm, 4.0, 4.0))
    assert "spacing_outlier" not in {f.code for f in check([tmp_path]).findings}


def test_an_unlabelled_image_that_cannot_be_read(bodies: Bodies) -> None:
    bodies.path("imagesTs", 7).write_bytes(b"no image")
    bodies.path("imagesTs", 7).with_name("._body_7.nii.gz").write_bytes(b"left by macOS")
    finding = only(check([bodies.folder]))
    assert (finding.code, finding.case) == ("unreadable_unlabelled", "imagesTs/body_7.nii.gz")


def test_one_name_for_two_cases_of_a_set(bodies: Bodies, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = bodies.cases()
    cases[2] = dataclasses.replace(cases[2], name="body_1")
    given(monkeypatch, cases)
    finding = only(check([bodies.folder]))
    assert (finding.code, finding.case) == ("duplicate_name", "body_1")


def test_errors_come_first_and_each_case_by_itself(bodies: Bodies, tmp_path: Path) -> None:
    other = Bodies(tmp_path / "a", range(5, 8))
    for one, seed in ((other, 6), (bodies, 2), (bodies, 0)):
        hu = body(seed)[0].astype(np.float32)
        hu[5, 5, 5] = np.nan
        one.put("imagesTr", seed, hu)
    other.put("labelsTr", 5, body(5)[1] * 0)
    bodies.put("imagesTs", 1, body(1)[0])
    report = check([bodies.folder, other.folder])
    assert [(f.case, f.code) for f in report.findings] == [
        ("body_1", "duplicate_voxels"),
        ("body_5", "empty_label"),
        ("body_0", "corrected"),
        ("body_2", "corrected"),
        ("body_6", "corrected"),
    ]


def test_a_folder_that_is_no_data_set_stops_no_other(bodies: Bodies, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    report = check([tmp_path / "other", bodies.folder])
    assert report.cases == 3
    finding = only(report)
    assert (finding.code, finding.dataset, finding.case) == (
        "no_data_set",
        str(tmp_path / "other"),
        "",
    )


def test_a_file_that_the_description_names_and_nobody_has(bodies: Bodies) -> None:
    bodies.path("labelsTr", 1).unlink()
    found = {(f.case, f.code) for f in check([bodies.folder]).findings}
    assert ("body_1", "missing_file") in found


def test_each_file_is_read_once(bodies: Bodies, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.check import look

    reads: list[Path] = []

    def counted(path: Path) -> Volume:
        reads.append(path)
        return original(path)

    original = look.read_volume
    monkeypatch.setattr(look, "read_volume", counted)
    bodies.put("imagesTs", 9, body(9)[0])
    check([bodies.folder])
    expected = [bodies.path(p, s) for p in ("imagesTr", "labelsTr") for s in range(3)]
    assert sorted(reads) == sorted([*expected, bodies.path("imagesTs", 9)])
