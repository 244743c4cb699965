"""SR: a measurement report that highdicom and a walk of the tree read alike."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from imaging.dicom_headers import quiet
from imaging.errors import BadParameter
from imaging.volume import Volume
from imaging.writers.dicom_seg import encode_seg
from imaging.writers.report_sr import encode_sr
from tests.imaging.dicom_files import stored_values, write_series
from tests.imaging.dicom_outputs import ALGORITHM, SEGMENTS, label_map, labelled, read_sr

SHAPE = (4, 12, 15)
VOXEL_ML = 2.5 * 0.9 * 0.7 / 1000


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return labelled(write_series(tmp_path, stored_values(SHAPE)), label_map(SHAPE))


def _groups(data: bytes) -> dict[str, object]:
    with quiet():
        report = highdicom.sr.srread(BytesIO(data)).content
        found = [
            *report.get_volumetric_roi_measurement_groups(),
            *report.get_image_measurement_groups(),
        ]
    return {group.tracking_identifier: group for group in found}


@pytest.mark.parametrize("with_seg", [False, True])
def test_volumes_are_those_of_the_voxels(volume: Volume, with_seg: bool) -> None:
    seg = encode_seg(volume, SEGMENTS, ALGORITHM) if with_seg else None
    data = encode_sr(volume, SEGMENTS, ALGORITHM, seg)
    for segment in SEGMENTS:
        voxels = np.isin(volume.array, segment.values).sum()
        assert read_sr(data)[segment.name] == pytest.approx(voxels * VOXEL_ML, abs=1e-4)
    assert read_sr(data)["pancreas"] == 0


def test_findings_and_sites_are_coded(volume: Volume) -> None:
    groups = _groups(encode_sr(volume, SEGMENTS, ALGORITHM))
    assert set(groups) == {s.name for s in SEGMENTS}
    tumor = groups["kidney_tumor"]
    assert tumor.finding_type.value == "108369006"
    assert tumor.finding_category.value == "49755003"
    assert [site.topographical_modifier for site in tumor.finding_sites] == [None]
    assert tumor.finding_sites[0].value.value == "64033007"
    (measured,) = tumor.get_measurements()
    assert (measured.name.value, measured.unit.value) == ("118565006", "mL")


def test_groups_refer_to_segments_that_have_voxels(volume: Volume) -> None:
    seg = encode_seg(volume, SEGMENTS, ALGORITHM)
    read = dcmread(BytesIO(seg))
    groups = _groups(encode_sr(volume, SEGMENTS, ALGORITHM, seg))
    for item in read.SegmentSequence:
        group = groups[item.TrackingID]
        assert group.tracking_uid == item.TrackingUID
        if item.TrackingID == "pancreas":
            assert isinstance(group, highdicom.sr.MeasurementsAndQualitativeEvaluations)
            continue
        found = group.referenced_segment
        assert found.referenced_sop_instance_uid == read.SOPInstanceUID
        assert found.referenced_segment_numbers == [item.SegmentNumber]


def test_every_image_is_evidence(volume: Volume) -> None:
    seg = encode_seg(volume, SEGMENTS, ALGORITHM)
    made = dcmread(BytesIO(encode_sr(volume, SEGMENTS, ALGORITHM, seg)))
    (study,) = made.CurrentRequestedProcedureEvidenceSequence
    named = {
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert volume.source is not None
    images = {header.SOPInstanceUID for header in volume.source.datasets}
    assert named == images | {dcmread(BytesIO(seg)).SOPInstanceUID}
    assert (made.CompletionFlag, made.VerificationFlag) == ("COMPLETE", "UNVERIFIED")


def test_the_observer_is_the_model(volume: Volume) -> None:
    first, second = (dcmread(BytesIO(encode_sr(volume, SEGMENTS, ALGORITHM))) for _ in range(2))
    assert _uid_of_device(first) == _uid_of_device(second)


def _uid_of_device(made: Dataset) -> str:
    (uid,) = (
        str(item.UID)
        for item in made.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "121012"
    )
    return uid


@pytest.mark.parametrize("style", ["labelmap", "binary"])
def test_another_seg_is_refused(volume: Volume, style: str) -> None:
    segments = SEGMENTS if style == "labelmap" else SEGMENTS[:2]
    other = encode_seg(volume, segments, ALGORITHM, style)
    with pytest.raises(BadParameter, match="one bit a voxel"):
        encode_sr(volume, SEGMENTS, ALGORITHM, other)
