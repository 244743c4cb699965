"""Sound DICOM series of the same bytes every time, which cases then spoil."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pydicom import Dataset

from benchmarks.trials.forged.case import Answer
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
        spoil(ds, index)

    return edit


def write_classic(folder: Path, spoil: Spoil = no_edit, **more: object) -> list[Path]:
    """A file a slice, of ``STORED`` unless ``stored`` is given; see ``write_series``."""
    stored = more.pop("stored", STORED)
    return write_series(folder, stored, edit=settled(spoil), **more)  # type: ignore[arg-type]


def write_multiframe(folder: Path, spoil: Spoil = no_edit) -> Path:
    """All of ``STORED`` in one file."""
    return write_enhanced(folder / "e.dcm", STORED, edit=settled(spoil))


@cache
def series_files() -> tuple[bytes, ...]:
    """The files of a sound series, in the order of its slices."""
    with tempfile.TemporaryDirectory() as folder:
        return tuple(path.read_bytes() for path in write_classic(Path(folder)))
