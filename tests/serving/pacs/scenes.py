"""Studies that the tiny model can segment, as DICOM files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from tests.imaging.dicom_files import Edit, Grid, no_edit, write_series
from tests.serving.tiny_model import boxes_ct


def write_boxes(folder: Path, study: str, edit: Edit = no_edit) -> tuple[str, list[Path]]:
    """The boxes CT as a series of a study: its SeriesInstanceUID and its files."""
    volume, _ = boxes_ct()
    series = generate_uid()
    frame = generate_uid()

    def whole(ds: Dataset, index: int) -> None:
        ds.StudyInstanceUID = study
        ds.FrameOfReferenceUID = frame
        ds.StudyID, ds.AccessionNumber, ds.StudyDate, ds.StudyTime = "1", "A1", "20260102", "101112"
        ds.PatientBirthDate, ds.PatientSex, ds.ReferringPhysicianName = "19500101", "F", ""
        ds.Manufacturer, ds.SliceThickness, ds.BodyPartExamined = "Maker", "2.5", "ABDOMEN"
        ds.SeriesDescription = "Abdomen portal venous"
        edit(ds, index)

    stored = (volume.array.astype(np.int32) + 1024).astype(np.uint16)
    grid = Grid(origin=(-100.0, -50.0, 30.0), step=2.5, rows=0.8, columns=0.9)
    return series, write_series(folder, stored, grid, whole, series)


def truth() -> np.ndarray:
    """The label map of the boxes CT, (Z, Y, X)."""
    return boxes_ct()[1]
