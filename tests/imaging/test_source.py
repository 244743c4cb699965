"""Headers kept for DICOM outputs: the right slices, and no more than is needed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from imaging.read import read_volume
from imaging.volume import to_canonical
from imaging.writers.nifti import write_nifti
from tests.imaging.dicom_files import Grid, stored_values, write_enhanced, write_series

STORED = stored_values()
GRID = Grid()


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return write_series(tmp_path / "series", STORED)


def test_slices_follow_the_first_axis(series: list[Path]) -> None:
    source = read_volume([*series[3:], *series[:3]], headers=True).source
    assert source is not None
    uids = [source.datasets[s.dataset].SOPInstanceUID for s in source.slices]
    assert uids == [dcmread(file).SOPInstanceUID for file in series]
    for place, where in enumerate(source.slices):
        assert where.frame is None
        np.testing.assert_allclose(where.position, GRID.world(place, 0, 0))
        world = source.to_world(place, [(2.5, 4.0)])
        np.testing.assert_allclose(world, [GRID.world(place, 2.5, 4.0)])


def test_frames_are_named_by_number(tmp_path: Path) -> None:
    order = [3, 0, 4, 1, 2]
    file = write_enhanced(tmp_path / "ct.dcm", STORED, GRID, order=order)
    source = read_volume(file, headers=True).source
    assert source is not None
    assert len(source.datasets) == 1
    assert [s.frame for s in source.slices] == [order.index(place) + 1 for place in range(5)]


def test_they_outlive_an_archive(tmp_path: Path, series: list[Path]) -> None:
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        for file in series:
            archive.write(file, file.name)
    source = read_volume(tmp_path / "ct.zip", headers=True).source
    assert source is not None
    assert str(source.header.PatientName) == "Doe^Jane"
    assert source.header.StudyInstanceUID == dcmread(series[0]).StudyInstanceUID


def test_nobody_is_named_unless_asked(series: list[Path]) -> None:
    assert read_volume(series).source is None


def test_nifti_has_none(tmp_path: Path, series: list[Path]) -> None:
    write_nifti(read_volume(series), tmp_path / "ct.nii.gz")
    assert read_volume(tmp_path / "ct.nii.gz", headers=True).source is None


def test_only_what_outputs_use_is_kept(tmp_path: Path) -> None:
    def edit(ds: Dataset, index: int) -> None:
        ds.PatientAddress = "Elm Street 1"
        ds.add_new(0x00091001, "LO", "private")

    source = read_volume(write_series(tmp_path, STORED, edit=edit), headers=True).source
    assert source is not None
    assert "StudyInstanceUID" in source.header
    assert "Doe" not in repr(source)
    for name in ("PixelData", "PatientAddress", 0x00091001):
        assert name not in source.header


def test_a_volume_keeps_its_source_while_its_slices_stand(series: list[Path]) -> None:
    volume = read_volume(series, headers=True)
    assert volume.with_array(volume.array > 0).source is volume.source
    assert to_canonical(volume).source is None
