"""Faults in cases: each is made once, and found by its code, its case and its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imaging.errors import BadParameter
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME, STRUCTURES
from tests.training.bodies import ORGANS, SHAPE, Bodies, body, body_grid, given, only, with_value
from training.check import KINDS, Finding, Report, check, run_check
from training.check.anatomy import PLAUSIBLE, RELATIONS


@pytest.fixture
def bodies(tmp_path: Path) -> Bodies:
    """Three sound cases."""
    return Bodies(tmp_path / "bodies", range(3))


def test_sound_data_has_no_finding(bodies: Bodies) -> None:
    report = check([bodies.folder])
    assert report == Report(3, ())
    assert run_check([bodies.folder]) == ("3 cases; errors: 0, warnings: 0", 0)


Spoil = Callable[[Bodies], object]


def _hu(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    return lambda s: s.put("imagesTr", 1, change(body(1)[0]))


def _label(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    return lambda s: s.put("labelsTr", 1, change(body(1)[1]))


def _moved(**changes: Any) -> Spoil:
    grid = dataclasses.replace(body_grid(), **changes)
    return lambda s: s.put("labelsTr", 1, body(1)[1], grid)


def _cut(part: str) -> Spoil:
    def cut(bodies: Bodies) -> None:
        path = bodies.path(part, 1)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])

    return cut


# The grid's axes, turned by three degrees about the patient's left-right axis.
_SIN, _COS = np.sin(np.deg2rad(3)), np.cos(np.deg2rad(3))
TURN = np.array([[0, 0, 1], [_SIN, _COS, 0], [_COS, -_SIN, 0]])


@pytest.mark.parametrize(
    ("spoil", "code", "cause"),
    [
        (_cut("imagesTr"), "unreadable_image", "body_1.nii.gz: The file ends"),
        (_cut("labelsTr"), "unreadable_label", "body_1.nii.gz: The file ends"),
        (
            lambda s: s.put("imagesTr", 1, np.full(SHAPE, np.nan, np.float32)),
            "unreadable_image",
            "No voxel holds a finite value",
        ),
        (_label(lambda a: a[1:]), "shape_mismatch", "(31, 48, 48) voxels, the CT (32, 48, 48)"),
        (_moved(spacing=(4.0, 4.0, 4.1)), "spacing_mismatch", "(4, 4, 4.1) mm, the CT (4, 4, 4)"),
        (_moved(origin=(-20.0, 10.0, 5.5)), "origin_mismatch", "(-20, 10, 5.5) mm, the CT at (-20"),
        (
            _moved(direction=TURN),
            "direction_mismatch",
            "the CT [[0.0, 0.0, 1.0]",
        ),
        (_label(lambda a: a.astype(np.float32) * 0.5), "label_not_whole", "holds 1.5"),
        (_label(lambda a: a.astype(np.int16) * 100), "label_out_of_range", "from 0 to 700"),
        (_label(lambda a: a.astype(np.int16) - 1), "label_out_of_range", "from -1 to 6"),
        (_label(lambda a: with_value(a, 77)), "stray_value", "[77]"),
        (_label(lambda a: a * 0), "empty_label", "no voxel of liver, pancreas, spleen, kidney"),
        (_hu(lambda a: a * 0 + 40), "constant_image", "every voxel is 40"),
        (_hu(lambda a: a.astype(np.float32) / 1000), "narrow_range", "no CT in Hounsfield units"),
        (_hu(lambda a: a + 1024), "not_hounsfield", "unrescaled"),
        (_hu(lambda a: a[::-1, :, ::-1]), "organ_hu", "the median of spleen is -9"),
        (_label(lambda a: a[:, :, ::-1]), "orientation", "liver should lie to the patient's right"),
        (lambda s: s.put("imagesTr", 1, body(2)[0]), "duplicate_voxels", "body_1"),
        (lambda s: s.put("imagesTs", 9, body(1)[0]), "duplicate_voxels", "imagesTs/body_9"),
        (lambda s: s.path("imagesTr", 1).unlink(), "missing_file", "body_1.nii.gz"),
        (lambda s: s.path("labelsTr", 1).unlink(), "missing_file", "body_1.nii.gz"),
    ],
)
def test_a_fault_is_an_error_that_names_case_and_cause(
    bodies: Bodies, spoil: Spoil, code: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, bodies.cases())
    spoil(bodies)
    report = check([bodies.folder])
    found = [f for f in report.errors if f.code == code]
    assert found, str(report)
    assert {"body_1", "body_2"} >= {f.case for f in found}
    assert any(cause in f.cause for f in found), str(report)
    # The others are looked at all the same, and nothing is wrong with them.
    assert report.cases == 3
    assert {f.case for f in report.findings} <= {"body_1", "body_2"}
    text, status = run_check([bodies.folder])
    assert status == 1
    assert code in text


def test_every_fault_of_one_case_is_told_beside_the_others(
    bodies: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = bodies.cases()
    given(monkeypatch, cases)
    bodies.path("imagesTr", 0).write_bytes(b"no image")
    bodies.put("labelsTr", 0, body(0)[1] * 0)
    bodies.put("labelsTr", 2, body(2)[1] * np.float32(1.5))
    found = {(f.case, f.code) for f in check([bodies.folder]).findings}
    assert found == {
        ("body_0", "unreadable_image"),
        ("body_0", "empty_label"),
        ("body_2", "label_not_whole"),
    }


def test_a_spacing_in_centimetres_and_a_thin_slab(bodies: Bodies) -> None:
    bodies.rescale(1, (0.04, 0.04, 0.04))
    hu, labels = body(2)
    bodies.put("imagesTr", 2, hu[8:17])
    bodies.put("labelsTr", 2, labels[8:17])
    errors = {(f.case, f.code) for f in check([bodies.folder]).errors}
    assert errors == {("body_1", "wrong_spacing"), ("body_2", "too_few_slices")}


def test_an_organ_of_implausible_volume(bodies: Bodies) -> None:
    labels = body(0)[1]
    labels[labels == 7] = 0
    labels[14, 28, 36:46] = 7
    bodies.put("labelsTr", 0, labels)
    finding = only(check([bodies.folder]))
    assert (finding.code, finding.severity, finding.case) == ("organ_volume", "warning", "body_0")
    # Ten voxels of 0.064 ml.
    assert finding.cause == "spleen has 0.64 ml, not 5 to 5000"


def test_an_organ_that_the_scan_cuts_may_be_small(bodies: Bodies) -> None:
    labels = body(0)[1]
    labels[labels == 7] = 0
    labels[31, 28, 36:46] = 7
    hu = np.where(labels == 7, 110, body(0)[0]).astype(np.int16)
    bodies.put("imagesTr", 0, hu)
    bodies.put("labelsTr", 0, labels)
    assert not check([bodies.folder]).findings


def test_what_reading_had_to_assume_is_told(bodies: Bodies) -> None:
    hu = body(0)[0].astype(np.float32)
    hu[5, 5, 5] = np.nan
    bodies.put("imagesTr", 0, hu)
    bodies.put("imagesTr", 1, with_value(body(1)[0].astype(np.float32), 4e4))
    found = {(f.case, f.code): f for f in check([bodies.folder]).findings}
    assert set(found) == {("body_0", "corrected"), ("body_1", "extreme_hu")}
    assert "1 voxels were not finite" in found["body_0", "corrected"].cause


@pytest.fixture
def masks(bodies: Bodies, monkeypatch: pytest.MonkeyPatch) -> Bodies:
    """The bodies with a mask for each organ, the kidney's in two files."""
    cases = []
    for seed, case in enumerate(bodies.cases()):
        labels = body(seed)[1]
        files: dict[str, tuple[Path, ...]] = {}
        for name in ORGANS:
            mask = (labels == BY_NAME[name].value).astype(np.uint8)
            halves = [mask.copy(), mask.copy()] if name == "kidney" else [mask]
            if name == "kidney":
                halves[0][:8], halves[1][8:] = 0, 0
            paths = [bodies.folder / f"{seed}" / f"{name}_{i}.nii.gz" for i in range(len(halves))]
            for path, half in zip(paths, halves, strict=True):
                write_nifti(Volume(half, body_grid()), path)
            files[name] = tuple(paths)
        cases.append(dataclasses.replace(case, label=None, values={}, masks=files))
    given(monkeypatch, cases)
    return bodies


def test_masks(masks: Bodies) -> None:
    assert not check([masks.folder]).findings
    path = masks.folder / "1" / "kidney_1.nii.gz"
    write_nifti(Volume(np.full(SHAPE, 2, np.uint8), body_grid()), path)
    (masks.folder / "2" / "liver_0.nii.gz").unlink()
    found = {(f.case, f.code, f.cause) for f in check([masks.folder]).findings}
    assert found == {
        ("body_1", "mask_not_binary", "kidney_1.nii.gz holds 2"),
        ("body_2", "missing_file", "there is no liver_0.nii.gz"),
    }


def test_empty_masks_are_a_warning(masks: Bodies) -> None:
    for path in (masks.folder / "0").iterdir():
        write_nifti(Volume(np.zeros(SHAPE, np.uint8), body_grid()), path)
    finding = only(check([masks.folder]))
    assert (finding.code, finding.severity, finding.case) == ("empty_masks", "warning", "body_0")


def test_a_label_stored_in_another_order_of_axes_fits(bodies: Bodies) -> None:
    grid = body_grid().transposed((2, 0, 1), (True, False, True))
    labels = body(0)[1].transpose(2, 0, 1)[::-1, :, ::-1]
    bodies.put("labelsTr", 0, np.ascontiguousarray(labels), grid)
    assert not check([bodies.folder]).findings


def test_the_table_is_markdown_whatever_a_message_holds() -> None:
    report = Report(2, (Finding("missing_file", "set", "a|b", "no\nfile | here"),))
    lines = report.table().splitlines()
    assert lines[0] == "| severity | data set | case | what | cause | fix |"
    assert lines[2].startswith("| error | set | a\\|b | missing_file | no file \\| here | put")
    assert len(lines) == 3
    assert str(report).startswith("2 cases; errors: 1, warnings: 0\n\n| severity")


def test_a_finding_has_a_known_code() -> None:
    with pytest.raises(BadParameter, match="'odd'"):
        Finding("odd", "set", "case", "cause")
    assert {kind.severity for kind in KINDS.values()} == {"error", "warning"}


def test_every_structure_has_bounds() -> None:
    assert set(PLAUSIBLE) == {s.name for s in STRUCTURES}
    for bounds in PLAUSIBLE.values():
        assert bounds.ml[0] < bounds.ml[1]
        assert bounds.hu[0] < bounds.hu[1]
    assert {n for r in RELATIONS for n in (r.first, r.second)} <= set(BY_NAME)
