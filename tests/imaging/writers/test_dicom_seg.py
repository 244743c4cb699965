"""SEG: the bits, the frames and what they refer to, read without the library that wrote them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from imaging.errors import BadParameter
from imaging.writers.dicom_seg import encode_seg
from tests.imaging.dicom_files import Grid, stored_values, write_enhanced, write_series
from tests.imaging.dicom_outputs import (
    ALGORITHM,
    SEGMENTS,
    label_map,
    labelled,
    read_seg_by_hand,
)

# 99 pixels a slice: frames begin within a byte.
SHAPE = (6, 9, 11)


def _places(mask: np.ndarray, grid: Grid) -> np.ndarray:
    return np.array([grid.world(*index) for index in np.argwhere(mask)]).reshape(-1, 3)


def _sorted(places: np.ndarray) -> np.ndarray:
    return places[np.lexsort(places.round(3).T)]


@pytest.mark.parametrize("style", ["binary", "binary-full"])
def test_bits_decode_by_hand(tmp_path: Path, style: str) -> None:
    labels = label_map(SHAPE)
    labels[2] = 0
    files = write_series(tmp_path, stored_values(SHAPE))
    data = encode_seg(labelled(files, labels), SEGMENTS, ALGORITHM, style)
    read = read_seg_by_hand(data)
    for segment in SEGMENTS:
        expected = _places(np.isin(labels, segment.values), Grid())
        np.testing.assert_allclose(_sorted(read[segment.label]), _sorted(expected), atol=1e-6)
    made = dcmread(BytesIO(data))
    present = sum(np.isin(labels, s.values).any(axis=(1, 2)).sum() for s in SEGMENTS)
    assert made.NumberOfFrames == (present if style == "binary" else len(SEGMENTS) * SHAPE[0])
    assert len(made.PixelData) % 2 == 0


def test_places_are_the_slices_own(tmp_path: Path) -> None:
    # Positions as a table that shakes leaves them; a viewer looks for the slice of equal place.
    def edit(ds: Dataset, index: int) -> None:
        ds.ImagePositionPatient = [
            -101.5,
            -57.25,
            round(300 + 2.5 * index + 0.004 * (-1) ** index, 3),
        ]

    files = write_series(tmp_path, stored_values(SHAPE), edit=edit)
    own = {f.SOPInstanceUID: f.ImagePositionPatient for f in map(dcmread, files)}
    made = dcmread(BytesIO(encode_seg(labelled(files, label_map(SHAPE)), SEGMENTS, ALGORITHM)))
    for frame in made.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert position == own[image.ReferencedSOPInstanceUID]


def test_frames_of_one_file_are_referred_to_by_number(tmp_path: Path) -> None:
    file = write_enhanced(tmp_path / "ct.dcm", stored_values(SHAPE), order=[5, 4, 3, 2, 1, 0])
    made = dcmread(BytesIO(encode_seg(labelled(file, label_map(SHAPE)), SEGMENTS, ALGORITHM)))
    ct = dcmread(file)
    for frame in made.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert image.ReferencedSOPClassUID == ct.SOPClassUID
        assert image.ReferencedSOPInstanceUID == ct.SOPInstanceUID
        own = ct.PerFrameFunctionalGroupsSequence[image.ReferencedFrameNumber - 1]
        assert (
            frame.PlanePositionSequence[0].ImagePositionPatient
            == own.PlanePositionSequence[0].ImagePositionPatient
        )
    (referred,) = made.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert referred.ReferencedSOPInstanceUID == ct.SOPInstanceUID


def test_segments_say_what_they_are(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values(SHAPE))
    made = dcmread(BytesIO(encode_seg(labelled(files, label_map(SHAPE)), SEGMENTS, ALGORITHM)))
    assert [item.SegmentNumber for item in made.SegmentSequence] == [1, 2, 3, 4]
    kidney, tumor, _, _ = made.SegmentSequence
    assert kidney.SegmentedPropertyTypeCodeSequence[0].CodeValue == "64033007"
    assert kidney.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    assert "AnatomicRegionSequence" not in kidney
    assert tumor.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"
    assert tumor.AnatomicRegionSequence[0].CodeValue == "64033007"
    assert tumor.SegmentAlgorithmType == "AUTOMATIC"
    assert (tumor.SegmentLabel, tumor.TrackingID) == ("Kidney tumor", "kidney_tumor")
    (who,) = tumor.SegmentationAlgorithmIdentificationSequence
    assert (who.AlgorithmName, who.AlgorithmVersion) == ("starter", "3")
    assert ALGORITHM.sha256 in who.AlgorithmParameters


@pytest.mark.parametrize(("tumor", "said"), [(True, "YES"), (False, "NO")])
def test_overlap_is_said_where_there_is_one(tmp_path: Path, tumor: bool, said: str) -> None:
    labels = label_map(SHAPE)
    if not tumor:
        labels[labels == 4] = 0
    files = write_series(tmp_path, stored_values(SHAPE))
    made = dcmread(BytesIO(encode_seg(labelled(files, labels), SEGMENTS, ALGORITHM)))
    assert made.SegmentsOverlap == said


def test_one_segment_alone(tmp_path: Path) -> None:
    labels = label_map(SHAPE)
    files = write_series(tmp_path, stored_values(SHAPE))
    made = dcmread(BytesIO(encode_seg(labelled(files, labels), SEGMENTS[2:3], ALGORITHM)))
    bits = np.unpackbits(np.frombuffer(made.PixelData, np.uint8), bitorder="little")
    assert bits.sum() == (labels == 6).sum()
    assert len(made.SegmentSequence) == 1


def test_a_label_map_packs_even_frames(tmp_path: Path) -> None:
    shape = (4, 8, 12)
    labels = label_map(shape)
    files = write_series(tmp_path, stored_values(shape))
    data = encode_seg(labelled(files, labels), SEGMENTS, ALGORITHM, "labelmap")
    made = dcmread(BytesIO(data))
    assert made.file_meta.TransferSyntaxUID.is_encapsulated
    expected = np.zeros(shape, np.uint8)
    for number, segment in enumerate(SEGMENTS, 1):
        expected[labels == segment.value] = number
    heights = [
        float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        for frame in made.PerFrameFunctionalGroupsSequence
    ]
    np.testing.assert_array_equal(made.pixel_array[np.argsort(heights)], expected)
    assert [item.SegmentNumber for item in made.SegmentSequence] == [0, 1, 2, 3, 4]


def test_an_unknown_style_is_refused(tmp_path: Path) -> None:
    volume = labelled(write_series(tmp_path, stored_values(SHAPE)), label_map(SHAPE))
    with pytest.raises(BadParameter, match="'fractional'; use one of binary, binary-full"):
        encode_seg(volume, SEGMENTS, ALGORITHM, "fractional")
