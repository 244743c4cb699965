"""RTSTRUCT: contours that planning systems take, and what they refer to."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian

from imaging.writers.rtstruct import encode_rtstruct
from tests.imaging.dicom_files import Grid, stored_values, write_enhanced, write_series
from tests.imaging.dicom_outputs import ALGORITHM, SEGMENTS, label_map, labelled
from tests.imaging.grids import rotation

SHAPE = (4, 30, 33)
OBLIQUE = Grid(
    origin=(-1234.56789, 987.654321, -0.000123),
    orientation=tuple(rotation(25, 15, -40)[:, :2].T.ravel()),
    rows=0.8398437,
    columns=0.7421875,
)


def _contours(made: Dataset) -> list[Dataset]:
    return [c for region in made.ROIContourSequence for c in region.get("ContourSequence", ())]


def _made(files: list[Path] | Path, labels: np.ndarray) -> Dataset:
    return dcmread(BytesIO(encode_rtstruct(labelled(files, labels), SEGMENTS, ALGORITHM)))


def test_numbers_fit_and_contours_are_long(tmp_path: Path) -> None:
    # A comb: one contour of more bytes than an element may have in explicit VR.
    shape = (2, 100, 200)
    labels = np.zeros(shape, np.uint8)
    labels[:, ::2, :-1] = labels[:, :, 0] = 6
    labels[:, :, ::3][:, 1::2] = 6
    files = write_series(tmp_path, stored_values(shape), OBLIQUE)
    made = _made(files, labels)
    assert made.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    raw = [bytes(c.get_item("ContourData").value) for c in _contours(made)]
    assert max(map(len, raw)) > 65534
    assert max(len(number) for data in raw for number in data.strip().split(b"\\")) <= 16
    assert all(len(data) % 2 == 0 and b"-0\\" not in data for data in raw)


def test_regions_say_what_they_are(tmp_path: Path) -> None:
    labels = label_map(SHAPE)
    files = write_series(tmp_path, stored_values(SHAPE))
    made, ct = _made(files, labels), dcmread(files[0])
    assert [r.ROINumber for r in made.StructureSetROISequence] == [1, 2, 3, 4]
    assert [r.ROIName for r in made.StructureSetROISequence] == [s.name for s in SEGMENTS]
    voxel_ml = 2.5 * 0.9 * 0.7 / 1000
    for region, segment in zip(made.StructureSetROISequence, SEGMENTS, strict=True):
        assert region.ReferencedFrameOfReferenceUID == ct.FrameOfReferenceUID
        assert region.ROIGenerationAlgorithm == "AUTOMATIC"
        (who,) = region.ROIDerivationAlgorithmIdentificationSequence
        assert (who.AlgorithmName, who.AlgorithmVersion) == ("starter", "3")
        expected = np.isin(labels, segment.values).sum() * voxel_ml
        np.testing.assert_allclose(float(region.ROIVolume), expected, atol=1e-6)
    organ, tumor, _, _ = made.RTROIObservationsSequence
    assert organ.RTROIIdentificationCodeSequence[0].CodeValue == "64033007"
    assert (organ.RTROIInterpretedType, tumor.RTROIInterpretedType) == ("ORGAN", "")
    assert tumor.AnatomicRegionSequence[0].CodeValue == "64033007"
    colours = [r.ROIDisplayColor for r in made.ROIContourSequence]
    assert colours == [list(s.colour) for s in SEGMENTS]
    assert "ContourSequence" not in made.ROIContourSequence[3]


def test_the_whole_series_is_referred_to(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values(SHAPE))
    made, ct = _made(files, label_map(SHAPE)), dcmread(files[0])
    (frame,) = made.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == ct.FrameOfReferenceUID
    assert study.ReferencedSOPInstanceUID == ct.StudyInstanceUID
    assert series.SeriesInstanceUID == ct.SeriesInstanceUID
    named = [image.ReferencedSOPInstanceUID for image in series.ContourImageSequence]
    assert named == [dcmread(f).SOPInstanceUID for f in files]


def test_frames_of_one_file_are_referred_to_by_number(tmp_path: Path) -> None:
    file = write_enhanced(tmp_path / "ct.dcm", stored_values(SHAPE), order=[3, 1, 0, 2])
    made, ct = _made(file, label_map(SHAPE)), dcmread(file)
    for contour in _contours(made):
        (image,) = contour.ContourImageSequence
        frame = ct.PerFrameFunctionalGroupsSequence[image.ReferencedFrameNumber - 1]
        depth = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        assert {float(z) for z in contour.ContourData[2::3]} == {depth}


def test_outlines_keep_the_volume(tmp_path: Path) -> None:
    # A disc's polygon has the area of its pixels, to the corners that a diamond cuts.
    y, x = np.ogrid[:30, :33]
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, np.hypot(y - 14.3, x - 16.1) < 11] = 6
    made = _made(write_series(tmp_path, stored_values(SHAPE)), labels)
    for contour in _contours(made):
        px, py = np.reshape(contour.ContourData, (-1, 3)).astype(float).T[:2]
        area = abs(np.sum(px * np.roll(py, -1) - np.roll(px, -1) * py)) / 2
        np.testing.assert_allclose(area, (labels[0] == 6).sum() * 0.63, atol=0.63)
