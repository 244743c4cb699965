"""Confidence in the report: of structures, masks and whole CTs, and the sentences on it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from imaging.writers.nifti import write_nifti
from models.confidence import Evidence, Finding, Lesion
from models.manifest import Calibration, Trust
from models.onnxfile import embed, parse, read_manifest
from models.store import Store
from serving.engines import Engines
from serving.findings import notes, nothing_here, of_mask, of_structure
from serving.options import Options
from serving.report import table
from serving.segment import Segmentation, files, segment
from tests.models.manifests import manifest
from tests.serving.tiny_model import boxes_ct, publish

SEEN = Evidence(0.9, 30.0)
SURE, LOST, ABSENT = Finding(SEEN, 0.87654, True), Finding(SEEN, 0.1, False), Finding()


def test_a_structure_says_its_confidence_and_its_lesions() -> None:
    assert of_structure(SURE) == {"confidence": 0.877, "doubtful": False, "lesions": []}
    assert of_structure(ABSENT) == {"confidence": None, "doubtful": False, "lesions": []}
    lesion = Lesion(SEEN, (1.23456, -2.0, 3.0), 0.1, kept=False)
    found = of_structure(Finding(SEEN, 0.1, False, (lesion,)))
    assert found["doubtful"]
    assert found["lesions"] == [
        {"volume_ml": 30.0, "centroid_lps_mm": [1.23, -2.0, 3.0], "confidence": 0.1}
        | {"doubtful": True}
    ]


def test_a_mask_is_as_sure_as_its_voxels() -> None:
    findings = {"kidney": Finding(SEEN, 0.9, True), "kidney_tumor": Finding(SEEN, 0.5, True)}
    assert of_mask("kidney", {"kidney": 300, "kidney_tumor": 100}, findings) == 0.8
    assert of_mask("kidney", {"kidney": 300, "kidney_tumor": 0}, findings) == 0.9
    assert of_mask("kidney", {"kidney": 0, "kidney_tumor": 0}, findings) is None
    unknown = findings | {"kidney_tumor": Finding(SEEN, None, True)}
    assert of_mask("kidney", {"kidney": 300, "kidney_tumor": 100}, unknown) is None


@pytest.mark.parametrize(
    ("findings", "reason"),
    [
        ({"liver": SURE, "kidney": LOST}, None),
        ({"liver": ABSENT, "kidney": LOST}, "doubtful_organs"),
        ({"liver": ABSENT, "kidney": ABSENT}, "no_organ"),
        ({"liver": ABSENT, "kidney_tumor": SURE}, "no_organ"),
        ({"kidney_tumor": ABSENT}, None),
    ],
)
def test_nothing_is_here_when_no_organ_is_left(findings: dict[str, Finding], reason: Any) -> None:
    assert nothing_here(findings) == reason


def test_what_is_left_out_is_said_once() -> None:
    trust = tuple(Trust(name, 0, 1, 0, 1, 0.3) for name in ("kidney", "kidney_tumor"))
    made = manifest(outputs=("kidney", "kidney_tumor"), calibration=Calibration(1.0, trust))
    # Sure of itself, and gone with its organ.
    findings = {"kidney": LOST, "kidney_tumor": Finding(SEEN, 0.9, False)}
    said = notes(findings, made)
    assert [s.split(" ")[0] for s in said] == ["kidney", "Nothing"]
    assert "0.10, this model needs 0.30; ask with doubtful=keep" in said[0]
    assert notes({"kidney": SURE, "kidney_tumor": ABSENT}, made) == ()


def segmented(tmp_path: Path, least: float, doubtful: str = "drop") -> Segmentation:
    """The boxes by a model that trusts each of its structures with 0.5 or so."""
    store = Store(tmp_path / "store", behind=())
    path = publish(store, tmp_path).path
    made = read_manifest(path)
    trust = tuple(Trust(name, 0, 0, 0, 1, least) for name in made.outputs)
    calibrated = tmp_path / "calibrated.onnx"
    told = dataclasses.replace(made, calibration=Calibration(1.0, trust))
    embed(parse(path)[0], told, calibrated)
    store.publish(calibrated)
    ct = tmp_path / "ct.nii.gz"
    write_nifti(boxes_ct()[0], ct)
    return segment(ct, Options(doubtful=doubtful, device="cpu"), Engines(store))


def test_a_calibrated_model_reports_confidence(tmp_path: Path) -> None:
    result = segmented(tmp_path, 0.4)
    report = json.loads(dict(files(result))["report.json"])
    assert report["structures"]["kidney"]["confidence"] == 0.5
    assert report["structures"]["kidney"]["found"]
    assert report["masks"]["kidney"]["confidence"] == 0.5
    assert len(report["structures"]["pancreas_tumor"]["lesions"]) == 1
    assert not report["nothing_here"]
    assert "0.50" in table(report)


def test_a_ct_without_a_believed_organ_gives_empty_masks_and_says_so(tmp_path: Path) -> None:
    result = segmented(tmp_path, 0.6)
    assert not result.labels.array.any()
    report = result.report
    assert (report["nothing_here"], report["nothing_here_reason"]) == (True, "doubtful_organs")
    assert not any(found["found"] for found in report["structures"].values())
    assert all(found["doubtful"] for found in report["structures"].values())
    assert report["warnings"][-1].startswith("Nothing here")


def test_the_doubtful_is_kept_on_request(tmp_path: Path) -> None:
    result = segmented(tmp_path, 0.6, "keep")
    assert (result.labels.array == boxes_ct()[1]).all()
    assert not result.report["nothing_here"]
    assert result.report["structures"]["kidney"]["confidence"] == 0.5
