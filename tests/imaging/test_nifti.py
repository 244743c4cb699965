from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st

from imaging.errors import (
    BadGeometry,
    BadShape,
    BadVoxels,
    UnsupportedFormat,
)
from imaging.geometry import Geometry
from imaging.nifti import AIR_HU, read_nifti
from imaging.volume import Volume
from imaging.writers.nifti import encode_nifti, write_nifti
from tests.imaging.grids import geometries
from tests.imaging.nifti_files import AFFINE, STORED, image, save, with_header


def assert_same_place(geometry: Geometry, ras: np.ndarray) -> None:
    """Every corner lies where an affine of (x, y, z) indices to RAS mm has it."""
    for index in np.ndindex(2, 2, 2):
        corner = np.multiply(index, np.subtract(geometry.shape, 1))
        there = ras @ [*corner[::-1], 1]
        np.testing.assert_allclose(
            geometry.to_world(corner), [-there[0], -there[1], there[2]], atol=1e-3
        )


@pytest.mark.parametrize("two", [False, True], ids=["nifti1", "nifti2"])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_voxels_and_places(tmp_path: Path, name: str, two: bool) -> None:
    volume = read_nifti(save(tmp_path, image(two=two), name))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, STORED.transpose())
    assert_same_place(volume.geometry, AFFINE)
    assert volume.warnings == ()


def test_content_decides_what_is_gzip(tmp_path: Path) -> None:
    path = save(tmp_path, image(), "ct.nii.gz").rename(tmp_path / "upload")
    np.testing.assert_array_equal(read_nifti(path).array, STORED.transpose())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("two", [False, True], ids=["nifti1", "nifti2"])
def test_every_voxel_type(tmp_path: Path, kind: str, order: str, two: bool) -> None:
    array = np.abs(STORED // 20).astype(kind)
    header = (nib.Nifti2Header if two else nib.Nifti1Header)(endianness=order)
    header.set_data_dtype(np.dtype(kind).newbyteorder(order))
    made = type(image(two=two))(array, AFFINE, header)
    volume = read_nifti(save(tmp_path, made))
    assert volume.array.dtype == (np.float32 if kind.startswith("f") else np.int16)
    np.testing.assert_array_equal(volume.array, array.transpose())
    assert_same_place(volume.geometry, AFFINE)


def test_integers_beyond_int16_are_clipped(tmp_path: Path) -> None:
    array = STORED.astype(np.int32)
    array[0, 0, 0], array[1, 0, 0] = 70_000, -70_000
    read = read_nifti(save(tmp_path, image(array))).array
    assert (read[0, 0, 0], read[0, 0, 1]) == (32767, -32768)
    array = np.abs(STORED).astype(np.uint16)
    array[0, 0, 0] = 65_535
    assert read_nifti(save(tmp_path, image(array))).array[0, 0, 0] == 32767


@pytest.mark.parametrize(
    ("slope", "inter", "dtype"),
    [
        (1, -1024, np.int16),
        (2, 3, np.int16),
        (0.5, 0, np.float32),
        (1, 0.25, np.float32),
        (0, 99, np.int16),  # zero means: not scaled
        (np.nan, 99, np.int16),
    ],
)
def test_scaling(tmp_path: Path, slope: float, inter: float, dtype: type) -> None:
    volume = read_nifti(with_header(tmp_path, scl_slope=slope, scl_inter=inter))
    scaled = STORED if not slope or np.isnan(slope) else STORED * slope + inter
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.array, scaled.transpose(), rtol=1e-6)


@pytest.mark.parametrize("two", [False, True])
def test_one_frame_of_four_dimensions_is_a_volume(tmp_path: Path, two: bool) -> None:
    volume = read_nifti(save(tmp_path, image(STORED[..., None], two=two)))
    np.testing.assert_array_equal(volume.array, STORED.transpose())
    assert_same_place(volume.geometry, AFFINE)


@pytest.mark.parametrize(
    "shape", [(7, 6), (7, 6, 5, 2), (7, 6, 5, 1, 3), (7, 6, 1), (1, 6, 5), (7,)]
)
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadShape, match="one 3D frame") as caught:
        read_nifti(save(tmp_path, image(np.zeros(shape, np.int16))))
    assert caught.value.details["shape"][: len(shape)] == list(shape)


def test_the_sform_is_taken_where_the_qform_disagrees(tmp_path: Path) -> None:
    made = image()
    other = AFFINE.copy()
    other[0, 3] += 12
    made.set_qform(other, code=1)
    made.set_sform(AFFINE, code=1)
    volume = read_nifti(save(tmp_path, made))
    assert_same_place(volume.geometry, AFFINE)
    assert len(volume.warnings) == 1
    assert "disagree by up to 12.00 mm; the sform was used" in volume.warnings[0]


def test_a_broken_sform_leaves_the_qform(tmp_path: Path) -> None:
    made = image()
    made.set_qform(AFFINE, code=1)
    path = save(tmp_path, made, "ct.nii")
    header, rest = nib.Nifti1Header(path.read_bytes()[:348]), path.read_bytes()[348:]
    for value in (0.0, np.nan):
        header["srow_x"] = header["srow_y"] = value
        header["sform_code"] = 1
        path.write_bytes(header.binaryblock + rest)
        volume = read_nifti(path)
        assert_same_place(volume.geometry, AFFINE)
        assert volume.warnings == ("The sform is no grid and was ignored; the qform was used.",)


def test_a_broken_qform_leaves_the_sform(tmp_path: Path) -> None:
    volume = read_nifti(with_header(tmp_path, qform_code=1, quatern_b=3.0, sform_code=1))
    assert_same_place(volume.geometry, AFFINE)
    assert volume.warnings == ("The qform is no grid and was ignored; the sform was used.",)


def test_no_usable_orientation_is_refused(tmp_path: Path) -> None:
    path = with_header(tmp_path, srow_x=0.0, qform_code=1, quatern_b=3.0, sform_code=1)
    with pytest.raises(BadGeometry, match="singular"):
        read_nifti(path)


@pytest.mark.parametrize("shape", [(7, 6, 5), (7, 6, 5, 1)])
def test_without_orientation_the_axial_one_is_assumed(tmp_path: Path, shape) -> None:
    made = image(STORED.reshape(shape), None)
    made.header.set_zooms((0.7, 0.9, 2.5, 1.0)[: len(shape)])
    volume = read_nifti(save(tmp_path, made))
    assert volume.geometry.spacing == pytest.approx((2.5, 0.9, 0.7))
    # Columns along S, A (LPS -y) and L (LPS +x).
    np.testing.assert_allclose(
        volume.geometry.direction, [[0, 0, 1], [0, -1, 0], [1, 0, 0]], atol=1e-12
    )
    assert len(volume.warnings) == 1
    assert "no orientation" in volume.warnings[0]


@pytest.mark.parametrize("qfac", [0.0, 1.0, 7.0])
def test_an_unset_handedness_is_the_standards_default(tmp_path: Path, qfac: float) -> None:
    pixdim = [qfac, 0.7, 0.9, 2.5, 0, 0, 0, 0]
    path = with_header(tmp_path, qform_code=1, sform_code=0, pixdim=pixdim, quatern_d=0.0)
    volume = read_nifti(path)
    assert volume.warnings == ()
    assert volume.geometry.spacing == pytest.approx((2.5, 0.9, 0.7))
    assert np.linalg.det(volume.geometry.direction[:, ::-1]) == pytest.approx(1)


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1e-3), ("micron", 1e3), ("unknown", 1)])
def test_units_of_length(tmp_path: Path, unit: str, scale: float) -> None:
    made = image(affine=np.diag([scale, scale, scale, 1]) @ AFFINE)
    made.header.set_xyzt_units(unit)
    assert_same_place(read_nifti(save(tmp_path, made)).geometry, AFFINE)


def test_units_that_do_not_exist_are_millimetres(tmp_path: Path) -> None:
    volume = read_nifti(with_header(tmp_path, xyzt_units=255))
    assert_same_place(volume.geometry, AFFINE)


def test_a_sheared_sform_is_corrected_with_a_warning(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[:3, 1] += 0.03 * sheared[:3, 0]
    rows = {f"srow_{axis}": row for axis, row in zip("xyz", sheared[:3], strict=True)}
    volume = read_nifti(with_header(tmp_path, **rows))
    assert len(volume.warnings) == 1
    assert "not orthonormal" in volume.warnings[0]


def test_voxels_that_are_no_number_are_air(tmp_path: Path) -> None:
    array = STORED.astype(np.float32)
    array[0, 0, 0], array[1, 0, 0], array[2, 0, 0] = np.nan, np.inf, -np.inf
    volume = read_nifti(save(tmp_path, image(array)))
    assert (volume.array[0, 0, :3] == AIR_HU).all()
    np.testing.assert_array_equal(volume.array[1:], STORED.transpose()[1:])
    assert volume.warnings == (f"3 voxels were not finite and were read as air ({AIR_HU} HU).",)


def test_no_finite_voxel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadVoxels):
        read_nifti(save(tmp_path, image(np.full((3, 3, 3), np.nan, np.float64))))


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]),
        np.dtype(np.complex64),
        np.dtype(np.complex128),
    ],
    ids=["rgb", "complex64", "complex128"],
)
def test_voxels_that_are_no_plain_numbers_are_refused(tmp_path: Path, dtype: np.dtype) -> None:
    with pytest.raises(UnsupportedFormat):
        read_nifti(save(tmp_path, image(np.zeros((3, 3, 3), dtype))))


@pytest.mark.parametrize(
    "fields",
    [
        {"scl_inter": np.inf},
        {"datatype": 9999},
        {"datatype": 1},  # bits
        {"datatype": 1536},  # 16-byte floats
        {"vox_offset": np.nan},
        {"vox_offset": np.inf},
        {"vox_offset": -5},
        {"vox_offset": 100},
        {"vox_offset": 1e9},
    ],
    ids=str,
)
def test_header_fields_without_sense_are_refused(tmp_path: Path, fields: dict) -> None:
    with pytest.raises(UnsupportedFormat):
        read_nifti(with_header(tmp_path, **fields))


@pytest.mark.parametrize("fields", [{"sizeof_hdr": 0}, {"sizeof_hdr": 352}, {"vox_offset": 0}])
def test_header_fields_that_can_be_told_are_not_needed(tmp_path: Path, fields: dict) -> None:
    volume = read_nifti(with_header(tmp_path, **fields))
    np.testing.assert_array_equal(volume.array, STORED.transpose())


def test_extensions_are_skipped(tmp_path: Path) -> None:
    made = image()
    made.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 1000))
    np.testing.assert_array_equal(read_nifti(save(tmp_path, made)).array, STORED.transpose())


def test_another_magic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match="magic"):
        read_nifti(with_header(tmp_path, magic=b"ni1"))


@given(geometries(), st.sampled_from([np.int16, np.uint8, np.float32]))
def test_writing_and_reading_keep_voxels_and_places(tmp_path: Path, geometry, dtype) -> None:
    array = np.random.default_rng(2).integers(0, 200, geometry.shape).astype(dtype)
    path = tmp_path / "out.nii.gz"
    write_nifti(Volume(array, geometry), path)
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.geometry.close_to(geometry, 1e-3)


@given(geometries())
def test_sform_and_qform_are_written_alike(geometry: Geometry) -> None:
    volume = Volume(np.zeros(geometry.shape, np.uint8), geometry)
    header = nib.Nifti1Image.from_bytes(gzip.decompress(encode_nifti(volume))).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    # A quaternion of float32 loses its smallest part near half a turn: 0.001 rad at worst.
    np.testing.assert_allclose(
        header.get_sform()[:3, :3], header.get_qform()[:3, :3], atol=1.5e-3 * max(geometry.spacing)
    )


def test_equal_volumes_give_equal_bytes() -> None:
    geometry = Geometry((3, 4, 5), (1, 2, 3), (4, 5, 6), np.eye(3))
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    first = encode_nifti(Volume(array, geometry))
    assert first == encode_nifti(Volume(np.asfortranarray(array), geometry, ("warned",)))
    assert first == encode_nifti(Volume(array.astype(">i2"), geometry))
    assert first != encode_nifti(Volume(array + 1, geometry))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.nii.gz"
    volume = Volume(
        np.zeros((2, 2, 2), object), Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), np.eye(3))
    )
    with pytest.raises(Exception, match="object"):
        write_nifti(volume, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", ["ircad17", "chaos3", "totalseg_example"])
def test_real_scans_read_as_another_library_reads_them(data: Path, case: str) -> None:
    path = data / "ct" / case / "ct.nii.gz"
    volume = read_nifti(path)
    other = sitk.ReadImage(str(path))
    np.testing.assert_allclose(volume.array, sitk.GetArrayViewFromImage(other), atol=1e-3)
    last = [n - 1 for n in other.GetSize()]
    np.testing.assert_allclose(
        volume.geometry.to_world(last[::-1]), other.TransformIndexToPhysicalPoint(last), atol=1e-2
    )
