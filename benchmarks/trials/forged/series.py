"""Sound DICOM series of the same bytes every time, which cases then spoil."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from benchmarks.trials.forged.case import Answer
from imaging.dicom_headers import quiet
from tests.imaging.dicom_files import Edit, no_edit, stored_values, write_enhanced, write_series

STORED = stored_values()
STUDY, SERIES_UID, FRAME = "2.25.1001", "2.25.1002", "2.25.1003"
SPACING = (2.5, 0.9, 0.7)
SERIES = Answer(STORED.shape, SPACING, (float(STORED.min()) - 1024, float(STORED.max()) - 1024))

Spoil = Callable[[Dataset, int], object]


def settled(spoil: Spoil = no_edit) -> Edit:
    """An edit that gives every identifier its value before it spoils a slice."""

    def edit(ds: Dataset, index: int) -> None:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES_UID
        ds.FrameOfReferenceUID, ds.SOPInstanceUID = FRAME, f"2.25.{2000 + index}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        # Else gdcm puts the time of day in where it compresses.
        ds.StudyDate, ds.StudyTime = "20261122", "120000"
        spoil(ds, index)

    return edit


def write_classic(folder: Path, spoil: Spoil = no_edit, **more: object) -> list[Path]:
    """A file a slice, of ``STORED`` unless ``stored`` is given; see ``write_series``."""
    stored = more.pop("stored", STORED)
    with quiet():
        return write_series(folder, stored, edit=settled(spoil), **more)  # type: ignore[arg-type]


def write_multiframe(folder: Path, spoil: Spoil = no_edit) -> Path:
    """All of ``STORED`` in one file."""
    with quiet():
        return write_enhanced(folder / "e.dcm", STORED, edit=settled(spoil))


def put_raw(path: Path, keyword: str, vr: str, data: bytes) -> None:
    """Give an element of an explicit little-endian file any kind and any bytes.

    Args:
        path: of the file.
        keyword: of an element with two bytes of length; it is put where it is missing.
        vr: any two letters of such a kind.
        data: of any length.
    """
    raw = path.read_bytes()
    number = tag_for_keyword(keyword) or 0
    place, end = _find(raw, number)
    head = struct.pack("<HH2sH", number >> 16, number & 0xFFFF, vr.encode(), len(data))
    path.write_bytes(raw[:place] + head + data + raw[end:])


def _find(raw: bytes, wanted: int) -> tuple[int, int]:
    """Where an element begins and ends; one place twice where it is missing."""
    # After the preamble, its mark and the element that says how long the rest of group 2 is.
    place = 144 + struct.unpack_from("<L", raw, 140)[0]
    while place < len(raw):
        group, element, vr, length = struct.unpack_from("<HH2sH", raw, place)
        end = place + 8 + length
        if vr in (b"SQ", b"OW", b"OB"):
            end = place + 12 + struct.unpack_from("<L", raw, place + 8)[0]
        if group << 16 | element >= wanted:
            return place, end if group << 16 | element == wanted else place
        place = end
    return place, place


@cache
def series_files() -> tuple[bytes, ...]:
    """The files of a sound series, in the order of its slices."""
    with tempfile.TemporaryDirectory() as folder:
        return tuple(path.read_bytes() for path in write_classic(Path(folder)))
