"""What stands before the pixels of a file, of a deflated one too, and what a bomb costs."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, generate_uid

from imaging.dicom_headers import head_of
from imaging.errors import TruncatedFile
from serving.pacs.listener import _series_of
from tests.imaging.dicom_files import write_series

_MIB = 2**20


def _deflated(path: Path, pixels: int = 16) -> Dataset:
    """A deflated file with so many bytes of zeros for pixels."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.SeriesInstanceUID, made.Modality = generate_uid(), "CT"
    made.add_new(0x7FE00010, "OW", bytes(pixels))
    made.ensure_file_meta()
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    made.save_as(path, enforce_file_format=True)
    return made


def test_a_head_is_what_the_file_says_before_its_pixels(tmp_path: Path) -> None:
    (plain,) = write_series(tmp_path / "plain", np.zeros((1, 4, 4), np.int16))
    wanted = dcmread(plain)
    assert head_of(plain).SeriesInstanceUID == wanted.SeriesInstanceUID
    made = _deflated(tmp_path / "deflated.dcm")
    found = head_of(tmp_path / "deflated.dcm")
    assert (found.SeriesInstanceUID, found.Modality) == (made.SeriesInstanceUID, "CT")
    assert "PixelData" not in found


def test_a_deflated_bomb_costs_no_more_than_its_head(tmp_path: Path) -> None:
    """The listener looks at every image that a sender hands it, before any limit is asked."""
    bomb = tmp_path / "bomb.dcm"
    made = _deflated(bomb, 64 * _MIB)
    assert bomb.stat().st_size < _MIB
    tracemalloc.start()
    try:
        assert _series_of(bomb) == made.SeriesInstanceUID
        assert tracemalloc.get_traced_memory()[1] < 40 * _MIB
        tracemalloc.reset_peak()
        dcmread(bomb, stop_before_pixels=True)
        assert tracemalloc.get_traced_memory()[1] > 64 * _MIB, "a plain reading inflates it all"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rest", [b"", b"no deflate at all", zlib.compress(bytes(100))])
def test_what_does_not_inflate_is_refused(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "deflated.dcm"
    _deflated(path)
    whole = path.read_bytes()
    meta = len(whole) - len(_body(path))
    path.write_bytes(whole[:meta] + rest)
    try:
        found = head_of(path)
    except TruncatedFile:
        return
    assert "SeriesInstanceUID" not in found


def _body(path: Path) -> bytes:
    length = dcmread(path, stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    return path.read_bytes()[132 + 12 + length :]
