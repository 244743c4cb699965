"""DICOM that is refused, by the name of its fault; broken files."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    HTJ2KLossless,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from imaging import errors
from imaging.dicom import read_dicom
from imaging.limits import Limits
from tests.imaging.dicom_files import (
    LOSSLESS,
    PROPERTY,
    move,
    refused,
    stored_values,
    transcode,
    write_enhanced,
    write_series,
)


def _set(**elements: object):
    def edit(ds, index):
        for name, value in elements.items():
            setattr(ds, name, value)

    return edit


def _drop(name: str, only: int | None = None):
    def edit(ds, index):
        if only is None or index == only:
            del ds[name]

    return edit


def _colour(ds, index) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = bytes(ds.Rows * ds.Columns * 3)


def _no_number(ds, index) -> None:
    ds[0x00281052] = RawDataElement(Tag(0x00281052), "DS", 4, b"nan ", 0, False, True)


def _tilt(ds, index) -> None:
    ds.ImagePositionPatient[1] += index * 2.5 * np.tan(np.radians(12.0))


REFUSALS = {
    "MR": (_set(Modality="MR", SOPClassUID=MRImageStorage), errors.NotCT, ["MR"]),
    "MR in a CT class": (_set(Modality="MR"), errors.NotCT, ["modality MR"]),
    "localizers": (
        _set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        errors.Localizer,
        ["5 images", "LOCALIZER"],
    ),
    "screenshots": (
        _set(SOPClassUID=SecondaryCaptureImageStorage, ImageType=["DERIVED", "SECONDARY"]),
        errors.SecondaryCapture,
        ["Secondary Capture"],
    ),
    "colour": (_colour, errors.ColourImage, ["RGB", "3 samples"]),
    "palette": (
        _set(PhotometricInterpretation="PALETTE COLOR"),
        errors.ColourImage,
        ["PALETTE COLOR"],
    ),
    "no slope": (_drop("RescaleSlope"), errors.MissingRescale, ["RescaleSlope is None"]),
    "no intercept": (
        _drop("RescaleIntercept", 3),
        errors.MissingRescale,
        ["RescaleIntercept None"],
    ),
    "slope of 0": (_set(RescaleSlope=0), errors.MissingRescale, ["RescaleSlope is 0"]),
    "no position": (
        _drop("ImagePositionPatient", 2),
        errors.MissingPosition,
        ["1 of 5", "ImagePositionPatient"],
    ),
    "no orientation": (
        _drop("ImageOrientationPatient"),
        errors.MissingPosition,
        ["5 of 5", "ImageOrientationPatient"],
    ),
    "no pixel spacing": (_drop("PixelSpacing"), errors.MissingPosition, ["PixelSpacing"]),
    "tilt": (_tilt, errors.GantryTilt, ["12.00 degrees", "2.13 mm"]),
    "duplicate": (move(2, 2, -2.5), errors.DuplicateSlices, ["302.5 mm"]),
    "uneven": (move(2, 2, 0.7), errors.UnevenSlices, ["2.5", "302.5", "3.2, 1.8 mm"]),
    "stacked sideways": (
        _set(ImageOrientationPatient=[1, 0, 0, 0, 0, 1]),
        errors.GantryTilt,
        ["90.00 degrees", "10.00 mm"],
    ),
    "two stacks": (move(4, 2, 1e4), errors.UnevenSlices, ["307.5 mm", "10002.5 mm"]),
    "nowhere": (move(4, 2, 1e9), errors.MissingPosition, ["1 of 5"]),
    "endless slope": (_set(RescaleSlope="1e300"), errors.MissingRescale, ["1e+300"]),
    "no number": (_no_number, errors.MissingRescale, ["RescaleIntercept nan"]),
    "flat orientation": (
        _set(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        errors.BadGeometry,
        ["perpendicular"],
    ),
    "no width": (_set(PixelSpacing=[0.9, 0]), errors.BadGeometry, ["[0.9, 0.0]"]),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(tmp_path: Path, name: str) -> None:
    edit, error, said = REFUSALS[name]
    refused(error, write_series(tmp_path, stored_values(), edit=edit), *said)


def test_a_syntax_without_decoder_is_named(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values())
    for path in files:
        ds = dcmread(path)
        ds.PixelData = encapsulate([b"\xff\x4f\xff\x51"])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = HTJ2KLossless
        ds.save_as(path)
    refused(errors.UnsupportedFormat, files, str(HTJ2KLossless))


def test_a_derived_reformat_is_ct(tmp_path: Path) -> None:
    edit = _set(ImageType=["DERIVED", "SECONDARY", "REFORMATTED"])
    assert read_dicom(write_series(tmp_path, stored_values(), edit=edit)).array.shape == (5, 8, 10)


def test_missing_slices_are_named(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values((12, 4, 4)))
    kept = [f for i, f in enumerate(files) if i not in (3, 4, 9)]
    error = refused(errors.MissingSlices, kept, "3 slices", "307.5, 310, 322.5 mm", "2.500 mm")
    assert error.details["positions"] == [307.5, 310.0, 322.5]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (_set(PixelSpacing=[0.9, 0.71]), "pixel spacing"),
        (_set(FrameOfReferenceUID="1.2.9"), "frame of reference"),
        (_set(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "orientation"),
        (lambda ds, i: (setattr(ds, "Rows", 7), setattr(ds, "Columns", 9)), "size (rows, columns)"),
    ],
)
def test_mixed_slices(tmp_path: Path, edit, said: str) -> None:
    def last(ds, index):
        if index == 4:
            edit(ds, index)

    error = refused(errors.MixedSlices, write_series(tmp_path, stored_values(), edit=last), said)
    assert len(error.details["values"]) == 2


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values())
    refused(errors.BadShape, files[:1], "1 slice", "at least 2")


def test_limits_hold_before_pixels_are_read(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values())
    refused(errors.InputTooLarge, files, "400 voxels", "399", limits=Limits(max_voxels=399))
    refused(errors.InputTooLarge, files, "5 files", "4", limits=Limits(max_files=4))
    refused(
        errors.InputTooLarge, files, ["1000", "bytes"][1], limits=Limits(max_unpacked_bytes=1000)
    )


def test_deflated_bomb(tmp_path: Path) -> None:
    stored = np.zeros((2, 1024, 1024), np.uint16)
    files = write_series(tmp_path, stored, syntax=DeflatedExplicitVRLittleEndian)
    limits = Limits(max_unpacked_bytes=1_500_000)
    assert sum(f.stat().st_size for f in files) < 10_000
    refused(errors.InputTooLarge, files, "1500000", limits=limits)


def test_deflated_files_share_one_limit(tmp_path: Path) -> None:
    stored = np.zeros((4, 256, 256), np.uint16)
    files = write_series(tmp_path, stored, syntax=DeflatedExplicitVRLittleEndian)
    # Each inflates to 128 KiB and its header.
    assert read_dicom(files, limits=Limits(max_unpacked_bytes=600_000)).array.shape == stored.shape
    refused(errors.InputTooLarge, files, "500000", limits=Limits(max_unpacked_bytes=500_000))


@pytest.mark.parametrize("number", ["big endian", None])
def test_items_of_all_files_share_one_limit(tmp_path: Path, number: str | None) -> None:
    def edit(ds, index):
        ds.SourceImageSequence = [Dataset() for _ in range(60)]

    files = write_series(tmp_path, stored_values((3, 32, 40)), edit=edit)
    for path in files if number else ():
        transcode(path, LOSSLESS[number])
    assert read_dicom(files, limits=Limits(max_files=3)).array.shape == (3, 32, 40)
    for path in files:
        ds = dcmread(path)
        ds.SourceImageSequence = [Dataset() for _ in range(101)]
        ds.save_as(path)
    refused(errors.InputTooLarge, files, "300 items", limits=Limits(max_files=3))


def test_pixels_that_do_not_begin_at_the_lowest_bit(tmp_path: Path) -> None:
    stored = stored_values()
    edit = _set(BitsStored=12, HighBit=15)
    refused(errors.UnsupportedFormat, write_series(tmp_path, stored, edit=edit), "HighBit is 15")
    # Where all bits are the pixel's there is only one place for them.
    edit = _set(BitsStored=16, HighBit=11)
    array = read_dicom(write_series(tmp_path, stored, edit=edit)).array
    assert np.array_equal(array, stored.astype(int) - 1024)


def test_an_element_of_half_a_number_is_refused_by_name(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values())
    raw = files[1].read_bytes()
    rows = b"\x28\0\x10\0US"
    files[1].write_bytes(raw.replace(rows + b"\2\0\x08\0", rows + b"\1\0\x08"))
    refused(errors.TruncatedFile, files, "DICOM file 2", "BytesLengthException")


def test_a_series_without_rows_is_said_to_be_one(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values(), edit=_set(Rows=0))
    refused(errors.BadShape, files, "no rows")


def test_nothing_dicom(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 500)
    (tmp_path / "b").touch()
    refused(errors.UnsupportedFormat, sorted(tmp_path.iterdir()), "None of the 2 files")


def test_only_companions(tmp_path: Path) -> None:
    edit = _set(SOPClassUID=SegmentationStorage, Modality="SEG")
    refused(errors.NotCT, write_series(tmp_path, stored_values(), edit=edit), "SEG")


def test_enhanced_faults(tmp_path: Path) -> None:
    stored = stored_values()

    def same_place(ds, index):
        groups = ds.PerFrameFunctionalGroupsSequence
        groups[1].PlanePositionSequence = groups[0].PlanePositionSequence

    def fewer(ds, index):
        del ds.PerFrameFunctionalGroupsSequence[4]

    def unscaled(ds, index):
        del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence

    def no_groups(ds, index):
        del ds.PerFrameFunctionalGroupsSequence

    path = tmp_path / "e.dcm"
    for edit, error, said in (
        (same_place, errors.DuplicateSlices, "300 mm"),
        (fewer, errors.TruncatedFile, "announces 5 frames and describes 4"),
        (unscaled, errors.MissingRescale, "None"),
        (no_groups, errors.BadShape, "1 slice"),
        (_set(SOPClassUID=EnhancedMRImageStorage, Modality="MR"), errors.NotCT, "MR"),
    ):
        refused(error, [write_enhanced(path, stored, edit=edit)], said)


@pytest.mark.parametrize("name", [n for n in LOSSLESS if n.startswith("JPEG")])
def test_a_codestream_of_another_size_reaches_no_codec(tmp_path: Path, name: str) -> None:
    files = write_series(tmp_path / "small", stored_values((3, 32, 40)))
    large = write_series(tmp_path / "large", stored_values((3, 64, 80)))
    for path in (*files, *large):
        transcode(path, LOSSLESS[name])
    ds = dcmread(files[1])
    ds.PixelData = dcmread(large[1]).PixelData
    ds.save_as(files[1])
    error = refused(errors.TruncatedFile, files, "DICOM file 2")
    assert "(32, 40)" in str(error.__cause__)
    assert "(64, 80)" in str(error.__cause__)


def test_run_lengths_far_longer_than_the_pixels(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values((3, 32, 40)))
    transcode(files[1], LOSSLESS["RLE"])
    ds = dcmread(files[1])
    ds.PixelData = encapsulate([struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\0" * 50_000])
    ds.save_as(files[1])
    error = refused(errors.TruncatedFile, files, "DICOM file 2")
    assert "100064 bytes" in str(error.__cause__)


# --- broken files


@settings(PROPERTY, max_examples=80)
@given(
    cut=st.floats(0, 1, exclude_max=True),
    kind=st.sampled_from(["plain", "enhanced", "rle", "jpeg", "deflated"]),
)
def test_a_cut_file_is_refused_by_name(tmp_path: Path, cut: float, kind: str) -> None:
    stored = stored_values((3, 32, 40))
    if kind == "enhanced":
        files = [write_enhanced(tmp_path / "e.dcm", stored)]
    else:
        syntax = {"deflated": {"syntax": DeflatedExplicitVRLittleEndian}}.get(kind, {})
        files = write_series(tmp_path, stored, **syntax)
        if kind in ("rle", "jpeg"):
            names = {"rle": "RLE", "jpeg": "JPEG Lossless SV1"}
            for path in files:
                transcode(path, LOSSLESS[names[kind]])
    whole = files[-1].read_bytes()
    files[-1].write_bytes(whole[: int(cut * len(whole))])
    with contextlib.suppress(errors.IsletError):
        volume = read_dicom(files)
        # Cut before it says DICM the file is like any other; only the rest is a series then.
        lost = int(cut * len(whole)) < 132
        assert volume.array.shape[0] == (2 if lost else 3)


def test_cut_pixels_say_which_file(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored_values((3, 32, 40)))
    files[1].write_bytes(files[1].read_bytes()[:-1000])
    error = refused(errors.TruncatedFile, files, "DICOM file 2")
    assert error.details["file"] == 2


@settings(PROPERTY, max_examples=80)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    enhanced=st.booleans(),
)
def test_changed_bytes_raise_nothing_else(tmp_path: Path, changes, enhanced) -> None:
    stored = stored_values((3, 8, 10))
    if enhanced:
        files = [write_enhanced(tmp_path / "e.dcm", stored)]
    else:
        files = write_series(tmp_path, stored)
    raw = bytearray(files[0].read_bytes())
    # The pixels, at the end, may be anything; the headers are what can go wrong.
    headers = len(raw) - stored[0].nbytes
    for place, value in changes:
        raw[int(place * headers)] = value
    files[0].write_bytes(raw)
    with contextlib.suppress(errors.IsletError):
        assert read_dicom(files).array.ndim == 3
