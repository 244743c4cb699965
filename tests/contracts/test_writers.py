"""Every entry of ``imaging.writers.WRITERS``, read back by a library that did not write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom import Dataset, dcmread

from imaging.errors import BadParameter, BadShape, NotDicom
from imaging.geometry import Geometry
from imaging.volume import Volume
from imaging.writers import WRITERS
from imaging.writers.segments import Segment
from tests.imaging.dicom_files import AXIAL, Grid, stored_values, write_enhanced, write_series
from tests.imaging.dicom_outputs import (
    ALGORITHM,
    SEGMENTS,
    errors_of_dciodvfy,
    label_map,
    labelled,
    read_itk,
    read_rtstruct,
    read_seg_with_dcmqi,
    read_sr,
)
from tests.imaging.grids import CANONICAL, STORAGE_ORDERS, rotation, stored_as

SHAPE = (7, 11, 13)
OF_DICOM = [name for name, writer in WRITERS.items() if writer.of_dicom]
TILTED = tuple(rotation(25, 15, -40)[:, :2].T.ravel())
# Feet first, a table from the other side, a coronal scan: what scanners and people do.
SERIES = {
    "axial": Grid(),
    "anisotropic": Grid(step=5.0, rows=0.5, columns=1.25),
    "oblique": Grid(orientation=TILTED),
    "feet-first": Grid(orientation=(-1.0, 0, 0, 0, 1.0, 0)),
    "flipped": Grid(orientation=(1.0, 0, 0, 0, -1.0, 0)),
    "coronal": Grid(orientation=(1.0, 0, 0, 0, 0, -1.0)),
}


@dataclass(frozen=True)
class Read:
    """What a reader made of one segment's file.

    Attributes:
        places: LPS mm (N, 3) of its voxels; None where the format holds none.
        millilitres: its volume, where the format says one.
    """

    places: np.ndarray | None = None
    millilitres: float | None = None


Files = Sequence[Path]
Reader = Callable[[Path, Files], dict[str, Read]]


def _nifti(path: Path, files: Files) -> dict[str, Read]:
    values = read_itk(path)
    none = np.empty((0, 3))
    return {
        s.label: Read(np.concatenate([values.get(v, none) for v in s.values])) for s in SEGMENTS
    }


def _seg(path: Path, files: Files) -> dict[str, Read]:
    return {label: Read(places) for label, places in read_seg_with_dcmqi(path).items()}


def _rtstruct(path: Path, files: Files) -> dict[str, Read]:
    return {k: Read(places) for k, places in read_rtstruct(path.read_bytes(), files).items()}


def _sr(path: Path, files: Files) -> dict[str, Read]:
    labels = {s.name: s.label for s in SEGMENTS}
    return {labels[n]: Read(millilitres=v) for n, v in read_sr(path.read_bytes()).items()}


READERS: dict[str, Reader] = {
    "nifti": _nifti,
    "seg": _seg,
    "seg-full": _seg,
    "seg-labelmap": _seg,
    "rtstruct": _rtstruct,
    "sr": _sr,
}


def _values(name: str, segment: Segment) -> tuple[int, ...]:
    return (segment.value,) if name == "seg-labelmap" else segment.values


def _write(name: str, volume: Volume, folder: Path) -> Path:
    path = folder / f"out{WRITERS[name].suffix}"
    path.write_bytes(WRITERS[name].encode(volume, SEGMENTS, ALGORITHM))
    return path


def _assert_read_back(name: str, labels: np.ndarray, grid: Grid, read: dict[str, Read]) -> None:
    assert list(read) == [s.label for s in SEGMENTS]
    axes = np.stack([grid.world(*row) - grid.world(0, 0, 0) for row in np.eye(3)])
    for segment in SEGMENTS:
        expected = np.isin(labels, _values(name, segment))
        found = read[segment.label]
        if found.places is None:
            voxel_ml = abs(np.linalg.det(axes)) / 1000
            assert found.millilitres == pytest.approx(expected.sum() * voxel_ml, abs=1e-4)
            continue
        index = (found.places - grid.world(0, 0, 0)) @ np.linalg.inv(axes)
        # A hundredth of a millimetre, in the place of every voxel and so of every centroid.
        assert np.abs((index - np.rint(index)) @ axes).max(initial=0) < 0.01
        mask = np.zeros(labels.shape, bool)
        mask[tuple(np.rint(index).astype(int).T)] = True
        np.testing.assert_array_equal(mask, expected)
        assert len(index) == expected.sum()


def test_every_writer_has_a_reader_here() -> None:
    assert list(READERS) == list(WRITERS)


@pytest.mark.parametrize("grid", SERIES.values(), ids=SERIES)
@pytest.mark.parametrize("name", WRITERS)
def test_voxels_and_places_survive(tmp_path: Path, name: str, grid: Grid) -> None:
    files = write_series(tmp_path / "ct", stored_values(SHAPE), grid)
    labels = label_map(SHAPE)
    path = _write(name, labelled(files[::-1], labels), tmp_path)
    _assert_read_back(name, labels, grid, READERS[name](path, files))


@pytest.mark.parametrize("name", [n for n in OF_DICOM if n != "rtstruct"])
def test_frames_of_one_file_in_any_order(tmp_path: Path, name: str) -> None:
    order = np.random.default_rng(1).permutation(SHAPE[0]).tolist()
    file = write_enhanced(tmp_path / "ct.dcm", stored_values(SHAPE), Grid(), order=order)
    labels = label_map(SHAPE)
    path = _write(name, labelled(file, labels), tmp_path)
    _assert_read_back(name, labels, Grid(), READERS[name](path, [file]))


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_found_is_still_a_file(tmp_path: Path, name: str) -> None:
    files = write_series(tmp_path / "ct", stored_values(SHAPE))
    nothing = np.zeros(SHAPE, np.uint8)
    path = _write(name, labelled(files, nothing), tmp_path)
    _assert_read_back(name, nothing, Grid(), READERS[name](path, files))


@pytest.mark.parametrize("name", OF_DICOM)
def test_it_conforms(tmp_path: Path, name: str) -> None:
    files = write_series(tmp_path / "ct", stored_values(SHAPE))
    path = _write(name, labelled(files, label_map(SHAPE)), tmp_path)
    assert errors_of_dciodvfy(path) == []


@pytest.mark.parametrize("name", OF_DICOM)
def test_it_says_whose_it_is_and_who_made_it(tmp_path: Path, name: str) -> None:
    files = write_series(tmp_path / "ct", stored_values(SHAPE))
    ct = dcmread(files[0])
    volume = labelled(files, label_map(SHAPE))
    made, again = (dcmread(_write(name, volume, tmp_path)) for _ in range(2))
    for element in ("PatientName", "PatientID", "StudyInstanceUID"):
        assert made[element] == ct[element]
    assert made.get("FrameOfReferenceUID", ct.FrameOfReferenceUID) == ct.FrameOfReferenceUID
    for element in ("SeriesInstanceUID", "SOPInstanceUID"):
        assert len({ct[element].value, made[element].value, again[element].value}) == 3
    assert made.SeriesNumber // 100 == ct.SeriesNumber
    assert made.Manufacturer == "Islet"
    assert made.ManufacturerModelName == "starter"
    assert made.SoftwareVersions[0] == "3"
    assert made.DeviceSerialNumber == ALGORITHM.sha256
    assert {dcmread(f).SOPInstanceUID for f in files} <= _referred(made)
    assert ct.SeriesInstanceUID in [e.value for e in made.iterall() if e.tag == 0x0020000E]


def test_outputs_of_one_ct_have_series_numbers_of_their_own(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", stored_values(SHAPE))
    volume = labelled(files, label_map(SHAPE))
    numbers = [dcmread(_write(name, volume, tmp_path)).SeriesNumber for name in OF_DICOM]
    assert sorted(numbers) == [301, 302, 303, 304, 305]


@pytest.mark.parametrize("name", OF_DICOM)
def test_a_ct_that_was_no_dicom_gets_none(name: str) -> None:
    labels = Volume(label_map(SHAPE), Geometry(SHAPE, (3.0, 0.7, 0.8), (0.0, 0.0, 0.0), CANONICAL))
    with pytest.raises(NotDicom, match="NIfTI"):
        WRITERS[name].encode(labels, SEGMENTS, ALGORITHM)


@pytest.mark.parametrize("name", OF_DICOM)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, name: str) -> None:
    volume = labelled(write_series(tmp_path, stored_values(SHAPE)), label_map(SHAPE))
    encode = WRITERS[name].encode
    with pytest.raises(BadParameter, match="at least one"):
        encode(volume, (), ALGORITHM)
    with pytest.raises(BadParameter, match="same name"):
        encode(volume, (*SEGMENTS, SEGMENTS[0]), ALGORITHM)
    shorter = volume.geometry.crop((0, 0, 0), (6, *SHAPE[1:]))
    cut = Volume(volume.array[:6], shorter, (), volume.source)
    with pytest.raises(BadShape, match="7 DICOM slices"):
        encode(cut, SEGMENTS, ALGORITHM)
    for lacking in ("StudyInstanceUID", "SOPInstanceUID"):
        assert volume.source is not None
        headers = tuple(_without(header, lacking) for header in volume.source.datasets)
        poor = replace(volume, source=replace(volume.source, datasets=headers))
        with pytest.raises(NotDicom, match=lacking):
            encode(poor, SEGMENTS, ALGORITHM)


def _without(header: Dataset, element: str) -> Dataset:
    rest = Dataset()
    rest.update(header)
    del rest[element]
    return rest


def _referred(made: Dataset) -> set[str]:
    return {e.value for e in made.iterall() if e.tag == 0x00081155}


# --- NIfTI, which needs no series


def _assert_same_image(volume: Volume, data: bytes, path: Path) -> None:
    path.write_bytes(data)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.array)
    for index in np.ndindex(2, 2, 2):
        corner = [int(i * (n - 1)) for i, n in zip(index, volume.geometry.shape, strict=True)]
        np.testing.assert_allclose(
            image.TransformIndexToPhysicalPoint(corner[::-1]),
            volume.geometry.to_world(corner),
            atol=1e-3,
        )


def test_every_storage_order_survives_in_nifti(tmp_path: Path) -> None:
    grid = Geometry(SHAPE, (3.0, 0.7, 0.8), (-120.5, 33.25, 870.0), rotation(12, -7, 3) @ CANONICAL)
    for order in STORAGE_ORDERS:
        volume = stored_as(Volume(label_map(SHAPE), grid), order)
        made = WRITERS["nifti"].encode(volume, SEGMENTS, ALGORITHM)
        _assert_same_image(volume, made, tmp_path / "out.nii.gz")


@pytest.mark.parametrize("name", ["nifti", "seg", "seg-full", "seg-labelmap", "rtstruct"])
def test_equal_label_maps_give_equal_voxels(tmp_path: Path, name: str) -> None:
    volume = labelled(write_series(tmp_path, stored_values(SHAPE)), label_map(SHAPE))
    first, second = (WRITERS[name].encode(volume, SEGMENTS, ALGORITHM) for _ in range(2))
    assert _voxels(name, first) == _voxels(name, second)


def _voxels(name: str, data: bytes) -> object:
    if name == "nifti":
        return data
    made = dcmread(BytesIO(data))
    if name == "rtstruct":
        return [
            c.ContourData for r in made.ROIContourSequence for c in r.get("ContourSequence", ())
        ]
    return made.PixelData


def test_grids_are_what_their_names_say() -> None:
    assert SERIES["axial"].orientation == AXIAL
    feet_first = SERIES["feet-first"].orientation
    assert np.cross(feet_first[:3], feet_first[3:])[2] == -1
