"""DICOM in: exact voxels in the right place, or a refusal that names the fault."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import struct
from pathlib import Path

import gdcm
import highdicom
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from imaging import errors
from imaging.dicom import read_dicom
from imaging.limits import Limits
from imaging.nifti import read_nifti
from imaging.volume import to_canonical
from tests.imaging.dicom_files import (
    Grid,
    stored_values,
    transcode,
    write_enhanced,
    write_series,
)

DATA = Path(os.environ.get("ISLET_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
COAD = DATA / "ct" / "tcga_coad"
PROPERTY = settings(
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def refused(error: type[errors.IsletError], files: list[Path], *said: str, **kwargs: object):
    """Read, expect this refusal and these words in its message; give it back."""
    with pytest.raises(error) as caught:
        read_dicom(files, **kwargs)
    found = caught.value
    assert type(found) is error
    for words in said:
        assert words in found.message
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert "Doe" not in text
    assert "PID-4711" not in text
    assert ".dcm" not in text
    return found


# --- what is read


def test_shuffled_files_give_exact_units_in_place(tmp_path: Path) -> None:
    stored, grid = stored_values(), Grid()
    files = write_series(tmp_path, stored)
    random.Random(1).shuffle(files)
    volume = read_dicom(files)
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, stored.astype(int) - 1024)
    assert volume.geometry.spacing == pytest.approx((2.5, 0.9, 0.7))
    assert volume.geometry.to_world((4, 7, 9)) == pytest.approx(grid.world(4, 7, 9), abs=1e-6)
    assert volume.warnings == ()


def _turns() -> st.SearchStrategy[np.ndarray]:
    """Right-handed or not, axis-aligned or oblique: rows are the row and column directions."""
    signed = [
        np.diag(signs)[list(order)]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]
    return st.tuples(
        st.sampled_from(signed),
        st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(*[st.floats(-3, 3)] * 3)),
    ).map(lambda pair: pair[0] @ _rotation(*pair[1]))


def _rotation(a: float, b: float, c: float) -> np.ndarray:
    cross = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    angle = np.linalg.norm([a, b, c])
    if angle < 1e-9:
        return np.eye(3)
    unit = cross / angle
    return np.eye(3) + np.sin(angle) * unit + (1 - np.cos(angle)) * unit @ unit


@settings(PROPERTY, max_examples=60)
@given(
    turn=_turns(),
    origin=st.tuples(*[st.floats(-400, 400)] * 3),
    spacing=st.tuples(st.floats(0.4, 6), st.floats(0.3, 2), st.floats(0.3, 2)),
    marker=st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 4)),
    enhanced=st.booleans(),
    seed=st.integers(0, 99),
)
def test_marker_is_where_the_header_puts_it(
    tmp_path: Path, turn, origin, spacing, marker, enhanced, seed
) -> None:
    grid = Grid(
        tuple(round(v, 6) for v in origin),
        tuple(turn[:2].ravel()),
        *(round(v, 5) for v in spacing),
    )
    stored = np.full((3, 4, 5), 1000, np.uint16)
    stored[marker] = 3000
    order = random.Random(seed).sample(range(3), 3)
    if enhanced:
        files = [write_enhanced(tmp_path / "all.dcm", stored, grid, order=order)]
    else:
        files = [write_series(tmp_path, stored, grid)[i] for i in order]
    volume = read_dicom(files)
    found = np.argwhere(volume.array == 3000 - 1024)
    assert len(found) == 1
    assert volume.geometry.to_world(found[0]) == pytest.approx(grid.world(*marker), abs=1e-3)


@pytest.mark.parametrize("enhanced", [False, True])
def test_highdicom_agrees(tmp_path: Path, enhanced: bool) -> None:
    stored = stored_values()
    turn = _rotation(0.3, -0.2, 0.5)
    grid = Grid(orientation=tuple(turn[:2].ravel()))
    if enhanced:
        files = [write_enhanced(tmp_path / "e.dcm", stored, grid, order=[3, 1, 4, 0, 2])]
        other = highdicom.imread(files[0]).get_volume(dtype=np.int32)
    else:
        files = write_series(tmp_path, stored, grid)
        other = highdicom.get_volume_from_series([dcmread(f) for f in files], dtype=np.int32)
    volume = read_dicom(files)
    index = np.argwhere(np.ones(stored.shape, bool))
    world = (other.affine @ np.c_[index, np.ones(len(index))].T).T[:, :3]
    mine = volume.geometry.to_index(world)
    assert np.abs(mine - mine.round()).max() < 1e-4
    assert np.array_equal(volume.array[tuple(mine.round().astype(int).T)], other.array.ravel())


def test_rescale_differs_from_slice_to_slice(tmp_path: Path) -> None:
    stored = stored_values()

    def edit(ds, index):
        ds.RescaleSlope, ds.RescaleIntercept = index + 1, -10 * index

    expected = stored.astype(int) * np.arange(1, 6)[:, None, None]
    expected -= 10 * np.arange(5)[:, None, None]
    assert np.array_equal(read_dicom(write_series(tmp_path, stored, edit=edit)).array, expected)


def test_fractional_rescale_is_float32(tmp_path: Path) -> None:
    stored = stored_values()

    def edit(ds, index):
        ds.RescaleSlope, ds.RescaleIntercept = "0.5", "-1000.25"

    array = read_dicom(write_series(tmp_path, stored, edit=edit)).array
    assert array.dtype == np.float32
    assert np.array_equal(array, stored * 0.5 - 1000.25)


def test_padding_below_sixteen_bits_does_not_wrap(tmp_path: Path) -> None:
    stored = (stored_values().astype(np.int32) - 2000).astype(np.int16)
    stored[2, 0, 0], stored[4, 1, 1] = -32768, 32767
    volume = read_dicom(write_series(tmp_path, stored))
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, stored.astype(int) - 1024)
    assert any("-33792" in sentence for sentence in volume.warnings)


def test_padding_of_an_unsigned_series_stays(tmp_path: Path) -> None:
    stored = (stored_values().astype(np.int32) - 1000).astype(np.int16)
    stored[:, 0] = -2000
    array = read_dicom(write_series(tmp_path, stored)).array
    assert array.dtype == np.int16
    assert (array[:, 0] == -3024).all()


def test_monochrome1_keeps_its_units(tmp_path: Path) -> None:
    stored = stored_values()

    def edit(ds, index):
        ds.PhotometricInterpretation = "MONOCHROME1"

    array = read_dicom(write_series(tmp_path, stored, edit=edit)).array
    assert np.array_equal(array, stored.astype(int) - 1024)


LOSSLESS = {
    "JPEG Lossless, any selection": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "JPEG Lossless SV1": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "RLE": gdcm.TransferSyntax.RLELossless,
    "big endian": gdcm.TransferSyntax.ExplicitVRBigEndian,
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", LOSSLESS)
def test_compressed_series_is_exact(tmp_path: Path, name: str, signed: bool) -> None:
    stored = stored_values((3, 32, 40))
    if signed:
        stored = (stored.astype(np.int32) - 2048).astype(np.int16)
    files = write_series(tmp_path, stored)
    for path in files:
        transcode(path, LOSSLESS[name])
    volume = read_dicom(files)
    assert np.array_equal(volume.array, stored.astype(int) - 1024)
    assert volume.warnings == ()


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_other_encodings_are_exact(tmp_path: Path, syntax: str) -> None:
    stored = stored_values((3, 200, 220))
    volume = read_dicom(write_series(tmp_path, stored, syntax=syntax))
    assert np.array_equal(volume.array, stored.astype(int) - 1024)


def test_compressed_enhanced_frames_keep_their_order(tmp_path: Path) -> None:
    stored = stored_values((4, 32, 40))

    def edit(ds, index):
        ds.compress(RLELossless, encoding_plugin=RLELosslessEncoder.available_plugins[0])

    file = write_enhanced(tmp_path / "e.dcm", stored, edit=edit, order=[2, 0, 3, 1])
    assert np.array_equal(read_dicom([file]).array, stored.astype(int) - 1024)


def test_lossy_series_is_read_with_a_warning(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(3), np.add.outer(np.arange(32), np.arange(40))) * 8
    files = write_series(tmp_path, smooth.astype(np.uint16))
    for path in files:
        transcode(path, gdcm.TransferSyntax.JPEG2000)
    volume = read_dicom(files)
    assert np.abs(volume.array - (smooth - 1024.0)).max() < 30
    assert any("with loss (JPEG 2000" in sentence for sentence in volume.warnings)


def test_data_set_without_preamble(tmp_path: Path) -> None:
    stored = stored_values()
    files = write_series(tmp_path, stored, syntax=ImplicitVRLittleEndian)
    for path in files:
        ds = dcmread(path)
        ds.file_meta.clear()
        ds.preamble = None
        ds.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[:2] == b"\x08\x00"
    assert np.array_equal(read_dicom(files).array, stored.astype(int) - 1024)


def test_other_files_are_left_out(tmp_path: Path) -> None:
    stored = stored_values()
    files = write_series(tmp_path / "ct", stored)

    def as_localizer(ds, index):
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    def as_segmentation(ds, index):
        ds.SOPClassUID, ds.Modality = SegmentationStorage, "SEG"

    series = str(dcmread(files[0]).SeriesInstanceUID)
    beside = [
        *write_series(tmp_path / "loc", stored[:1], edit=as_localizer),
        *write_series(tmp_path / "loc2", stored[:1], edit=as_localizer, series=series),
        *write_series(tmp_path / "seg", stored[:1], edit=as_segmentation),
        tmp_path / "notes.txt",
        tmp_path / "empty",
    ]
    beside[-2].write_text("thumbs")
    beside[-1].touch()
    volume = read_dicom([*beside, *files])
    assert np.array_equal(volume.array, stored.astype(int) - 1024)
    assert volume.warnings == ("3 other DICOM files (localizers, other series) were left out.",)


def test_positions_rounded_to_two_decimals_pass(tmp_path: Path) -> None:
    def edit(ds, index):
        ds.ImagePositionPatient[2] = round(float(ds.ImagePositionPatient[2]), 2)

    volume = read_dicom(write_series(tmp_path, stored_values(), Grid(step=0.6333), edit=edit))
    assert volume.geometry.spacing[0] == pytest.approx(0.6333, abs=0.003)


def test_jitter_of_half_a_percent_passes_and_of_five_does_not(tmp_path: Path) -> None:
    stored = stored_values()
    small = write_series(tmp_path / "small", stored, Grid(step=5), _move(2, 2, 0.025))
    assert read_dicom(small).geometry.spacing[0] == pytest.approx(5, abs=0.01)
    large = write_series(tmp_path / "large", stored, Grid(step=5), _move(2, 2, 0.25))
    refused(errors.UnevenSlices, large, "5.25, 4.75 mm")


@pytest.mark.skipif(not COAD.is_dir(), reason="no shared data: set ISLET_DATA")
def test_real_series_is_on_the_grid_of_its_label() -> None:
    volume = to_canonical(read_dicom(sorted((COAD / "dicom").iterdir())))
    label = to_canonical(read_nifti(COAD / "label.nii.gz"))
    assert volume.geometry.close_to(label.geometry, 1e-3)
    assert 60 < np.median(volume.array[label.array == 3]) < 250


# --- which series


def _two_series(folder: Path) -> list[Path]:
    first = write_series(folder / "a", stored_values(), series="1.2.3.1")
    return first + write_series(folder / "b", stored_values((4, 6, 6), 1), series="1.2.3.2")


def test_several_series_are_listed_and_can_be_named(tmp_path: Path) -> None:
    files = _two_series(tmp_path)
    error = refused(errors.SeveralSeries, files, "1.2.3.1", "1.2.3.2", "5 slices of 8x10", "2.5 mm")
    assert error.code == "several_series"
    assert error.details["series"][1] == {
        "series": "1.2.3.2",
        "series_number": "3",
        "modality": "CT",
        "slices": 4,
        "rows": 6,
        "columns": 6,
        "slice_spacing_mm": 2.5,
        "pixel_spacing_mm": [0.9, 0.7],
    }
    expected = stored_values((4, 6, 6), 1).astype(int) - 1024
    assert np.array_equal(read_dicom(files, series="1.2.3.2").array, expected)


def test_what_is_said_of_a_series_is_json(tmp_path: Path) -> None:
    spoiled = write_series(tmp_path / "c", stored_values(), series="1.2.3.3")
    for path in spoiled:
        path.write_bytes(path.read_bytes().replace(b"0.9\\0.7", b"nan\\0.7"))
    error = refused(errors.SeveralSeries, [*_two_series(tmp_path), *spoiled], "1.2.3.3")
    assert error.details["series"][2]["pixel_spacing_mm"] == []


def test_unknown_series_lists_those_there(tmp_path: Path) -> None:
    error = refused(
        errors.SeriesNotFound, _two_series(tmp_path), "9.9", "1.2.3.1", "1.2.3.2", series="9.9"
    )
    assert error.code == "series_not_found"


# --- what is refused


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


def _move(index: int, axis: int, by: float):
    def edit(ds, i):
        if i == index:
            ds.ImagePositionPatient[axis] += by

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
    "duplicate": (_move(2, 2, -2.5), errors.DuplicateSlices, ["302.5 mm"]),
    "uneven": (_move(2, 2, 0.7), errors.UnevenSlices, ["2.5", "302.5", "3.2, 1.8 mm"]),
    "stacked sideways": (
        _set(ImageOrientationPatient=[1, 0, 0, 0, 0, 1]),
        errors.GantryTilt,
        ["90.00 degrees", "10.00 mm"],
    ),
    "two stacks": (_move(4, 2, 1e4), errors.UnevenSlices, ["307.5 mm", "10002.5 mm"]),
    "nowhere": (_move(4, 2, 1e9), errors.MissingPosition, ["1 of 5"]),
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
