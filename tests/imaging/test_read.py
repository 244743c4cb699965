"""The one door: whatever a CT is stored as, the same volume; whatever is no CT, a refusal."""

from __future__ import annotations

import gzip
import json
import tempfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imaging import errors
from imaging.geometry import Geometry
from imaging.limits import Limits
from imaging.read import read_volume
from imaging.volume import Volume, to_canonical
from imaging.writers.nifti import write_nifti
from tests.imaging.dicom_files import Grid, stored_values, write_enhanced, write_series

STORED = stored_values()
HU = STORED.astype(int) - 1024


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    """The synthetic CT as NIfTI: (x, y, z) in RAS."""
    grid = Grid()
    affine = np.eye(4)
    for column, step in enumerate(((0, 0, 1), (0, 1, 0), (1, 0, 0))):
        affine[:3, column] = grid.world(*step) - grid.world(0, 0, 0)
    affine[:3, 3] = grid.world(0, 0, 0)
    image = nib.Nifti1Image(HU.T.astype(np.int16), np.diag([-1, -1, 1, 1]) @ affine)
    path = tmp_path / "nifti" / "ct.nii"
    path.parent.mkdir()
    nib.save(image, path)
    return path


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return write_series(tmp_path / "series", STORED)


def _zip(path: Path, files: list[Path]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"Doe^Jane/{file.parent.name}/{file.name}")
    return path


def _refused(error: type[errors.IsletError], source: Path | list[Path], *said: str, **kwargs):
    with pytest.raises(error) as caught:
        read_volume(source, **kwargs)
    assert type(caught.value) is error
    for words in said:
        assert words in caught.value.message
    assert "Doe" not in json.dumps(caught.value.as_dict())


def test_every_way_in_gives_the_same_volume(
    tmp_path: Path, nifti: Path, series: list[Path]
) -> None:
    packed = tmp_path / "named.dcm"
    packed.write_bytes(gzip.compress(nifti.read_bytes()))
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    for file in series[2:]:
        (folder / file.name).write_bytes(file.read_bytes())
    for file in series[:2]:
        (folder.parent / file.name).write_bytes(file.read_bytes())
    (folder / "README").write_text("not an image")
    sources = [
        nifti,
        packed,
        nifti.parent,
        [nifti],
        series,
        tmp_path / "deep",
        write_enhanced(tmp_path / "e.dcm", STORED),
        [write_enhanced(tmp_path / "e.dcm", STORED)],
        _zip(tmp_path / "series.zip", series),
        _zip(tmp_path / "nifti.nii", [packed]),
        _zip(tmp_path / "enhanced.zip", [tmp_path / "e.dcm"]),
    ]
    for source in sources:
        volume = to_canonical(read_volume(source))
        assert volume.array.dtype == np.int16
        assert np.array_equal(volume.array, HU)
        assert volume.geometry.to_world((4, 7, 9)) == pytest.approx(Grid().world(4, 7, 9), abs=1e-3)


def test_series_is_named_through_the_door(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a", STORED, series="1.2.1")
    files += write_series(tmp_path / "b", STORED[::-1], series="1.2.2")
    for source in (tmp_path, _zip(tmp_path / "z.zip", files)):
        _refused(errors.SeveralSeries, source, "1.2.1", "1.2.2")
        assert np.array_equal(read_volume(source, series="1.2.2").array, HU[::-1])


def test_archives_leave_nothing_in_the_temporary_folder(
    tmp_path: Path, series: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    read_volume(_zip(tmp_path / "a.zip", series))
    _refused(errors.MissingSlices, _zip(tmp_path / "b.zip", series[:2] + series[3:]), "305 mm")
    assert list(work.iterdir()) == []


def test_links_that_lead_out_are_skipped(tmp_path: Path, series: list[Path]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in series[:2]:
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "out").symlink_to(series[2])
    (folder / "outer").symlink_to(series[0].parent)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    assert np.array_equal(read_volume(folder).array, HU[:2])


def test_nothing_there(tmp_path: Path) -> None:
    empty = tmp_path / "empty.nii"
    empty.touch()
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    _refused(errors.EmptyInput, tmp_path / "nowhere.nii", "nowhere.nii")
    _refused(errors.EmptyInput, [tmp_path / "nowhere.dcm", empty], "nowhere.dcm")
    _refused(errors.EmptyInput, empty, "0 bytes")
    _refused(errors.EmptyInput, hollow, "nothing")
    _refused(errors.EmptyInput, [], "nothing")
    _refused(errors.EmptyInput, _zip(tmp_path / "z.zip", []), "no files")


def test_no_image(tmp_path: Path, nifti: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(400))
    text = tmp_path / "b.txt"
    text.write_text("hello")
    _refused(errors.UnsupportedFormat, picture, "89 50 4e 47 0d 0a 1a 0a", "NIfTI", "DICOM", "zip")
    _refused(errors.UnsupportedFormat, text, "68 65 6c 6c 6f")
    _refused(errors.UnsupportedFormat, [picture, text], "2 files")
    _refused(errors.UnsupportedFormat, _zip(tmp_path / "z.zip", [picture, text]), "2 files")
    twin = nifti.with_name("twin.nii")
    twin.write_bytes(nifti.read_bytes())
    _refused(errors.UnsupportedFormat, nifti.parent, "2 NIfTI")
    broken = tmp_path / "broken.gz"
    broken.write_bytes(b"\x1f\x8b\x08" + bytes(40))
    _refused(errors.UnsupportedFormat, [broken, text], "0 NIfTI")


def test_limits(tmp_path: Path, nifti: Path, series: list[Path]) -> None:
    size = nifti.stat().st_size
    _refused(errors.InputTooLarge, nifti, str(size), limits=Limits(max_bytes=size - 1))
    _refused(errors.InputTooLarge, series[0].parent, "4 files", limits=Limits(max_files=4))
    archive = _zip(tmp_path / "z.zip", series)
    _refused(errors.InputTooLarge, archive, "5 files", limits=Limits(max_files=4))
    _refused(errors.InputTooLarge, archive, "400 voxels", limits=Limits(max_voxels=399))


def _of_spacing(path: Path, slices: int, mm: float) -> Path:
    geometry = Geometry((slices, 4, 4), (mm, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)[:, ::-1])
    write_nifti(Volume(np.zeros(geometry.shape, np.int16), geometry), path)
    return path


def test_a_ct_longer_or_coarser_than_any_is_refused(tmp_path: Path) -> None:
    longest = read_volume(_of_spacing(tmp_path / "longest.nii", 100, 50.0))
    assert longest.geometry.spacing == (50.0, 1.0, 1.0)
    for slices, mm in ((101, 50.0), (2, 50.5), (2501, 2.0)):
        path = _of_spacing(tmp_path / "longer.nii", slices, mm)
        _refused(errors.BadGeometry, path, f"{slices * mm:.0f} mm long", f"({mm}, 1.0, 1.0)")
