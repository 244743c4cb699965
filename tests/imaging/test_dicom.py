"""DICOM in: exact voxels in the right place, and which series it is."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import gdcm
import highdicom
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SegmentationStorage,
)

from imaging import errors
from imaging.dicom import read_dicom
from imaging.nifti import read_nifti
from imaging.volume import to_canonical
from tests.imaging.dicom_files import (
    LOSSLESS,
    PROPERTY,
    Grid,
    move,
    refused,
    stored_values,
    transcode,
    write_enhanced,
    write_series,
)

DATA = Path(os.environ.get("ISLET_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
COAD = DATA / "ct" / "tcga_coad"


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
    small = write_series(tmp_path / "small", stored, Grid(step=5), move(2, 2, 0.025))
    assert read_dicom(small).geometry.spacing[0] == pytest.approx(5, abs=0.01)
    large = write_series(tmp_path / "large", stored, Grid(step=5), move(2, 2, 0.25))
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
