"""Synthetic DICOM series for the tests: classic and enhanced CT, whole or with one fault.

Positions are worked out here from ImagePositionPatient, ImageOrientationPatient and PixelSpacing
as PS3.3 C.7.6.2 defines them, not with the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

from imaging import errors
from imaging.dicom import read_dicom

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Edit = Callable[[Dataset, int], None]
PROPERTY = settings(
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LOSSLESS = {
    "JPEG Lossless, any selection": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "JPEG Lossless SV1": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "RLE": gdcm.TransferSyntax.RLELossless,
    "big endian": gdcm.TransferSyntax.ExplicitVRBigEndian,
}


@dataclass(frozen=True)
class Grid:
    """Where the slices of a synthetic series are.

    Attributes:
        origin: LPS mm of the first pixel of slice 0.
        orientation: ImageOrientationPatient.
        step: mm from slice to slice along the normal.
        rows, columns: mm between rows and between columns (PixelSpacing).
    """

    origin: tuple[float, float, float] = (-101.5, -57.25, 300.0)
    orientation: tuple[float, ...] = AXIAL
    step: float = 2.5
    rows: float = 0.9
    columns: float = 0.7

    def world(self, z: float, y: float, x: float) -> np.ndarray:
        along_row, along_column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        normal = np.cross(along_row, along_column)
        return (
            np.array(self.origin)
            + z * self.step * normal
            + x * self.columns * along_row
            + y * self.rows * along_column
        )


def stored_values(shape: tuple[int, int, int] = (5, 8, 10), seed: int = 0) -> np.ndarray:
    """Twelve-bit values that differ from voxel to voxel, (Z, Y, X)."""
    return np.random.default_rng(seed).integers(0, 4096, shape).astype(np.uint16)


def no_edit(ds: Dataset, index: int) -> None:
    """Leave a data set as it is."""


def write_series(
    folder: Path,
    stored: np.ndarray,
    grid: Grid = Grid(),
    edit: Edit = no_edit,
    series: str | None = None,
    syntax: str = ExplicitVRLittleEndian,
) -> list[Path]:
    """Write a classic CT, one file a slice, ascending along the normal; ``edit`` spoils a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    series, frame_of_reference = series or generate_uid(), generate_uid()
    study = generate_uid()
    files = []
    for index, pixels in enumerate(stored):
        ds = _image(pixels, CTImageStorage, series, frame_of_reference, syntax)
        ds.StudyInstanceUID, ds.InstanceNumber = study, index + 1
        ds.ImagePositionPatient = [f"{v:.10g}" for v in grid.world(index, 0, 0)]
        ds.ImageOrientationPatient = [f"{v:.12f}"[:16] for v in grid.orientation]
        ds.PixelSpacing = [grid.rows, grid.columns]
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        edit(ds, index)
        files.append(folder / f"{index:04d}.dcm")
        dcmwrite(files[-1], ds, enforce_file_format=True)
    return files


def write_enhanced(
    path: Path,
    stored: np.ndarray,
    grid: Grid = Grid(),
    edit: Edit = no_edit,
    order: Sequence[int] | None = None,
) -> Path:
    """Write an enhanced CT: frames in ``order``, orientation and spacing shared, position each."""
    order = list(order) if order is not None else list(range(len(stored)))
    ds = _image(
        stored[order],
        EnhancedCTImageStorage,
        generate_uid(),
        generate_uid(),
        ExplicitVRLittleEndian,
    )
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames = len(stored)
    ds.SharedFunctionalGroupsSequence = [
        _dataset(
            PlaneOrientationSequence=[
                _dataset(ImageOrientationPatient=[f"{v:.12f}"[:16] for v in grid.orientation])
            ],
            PixelMeasuresSequence=[
                _dataset(PixelSpacing=[grid.rows, grid.columns], SliceThickness=grid.step)
            ],
            PixelValueTransformationSequence=[
                _dataset(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
            ],
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [_frame(grid, place) for place in order]
    edit(ds, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def transcode(path: Path, syntax: int) -> None:
    """Compress a file in place with gdcm; ``syntax`` is one of gdcm.TransferSyntax."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


def _frame(grid: Grid, place: int) -> Dataset:
    position = [f"{v:.10g}" for v in grid.world(place, 0, 0)]
    return _dataset(
        FrameContentSequence=[
            _dataset(StackID="1", InStackPositionNumber=place + 1, DimensionIndexValues=[place + 1])
        ],
        PlanePositionSequence=[_dataset(ImagePositionPatient=position)],
    )


def _dataset(**elements: Any) -> Dataset:
    ds = Dataset()
    for name, value in elements.items():
        is_sequence = name.endswith("Sequence") and isinstance(value, list)
        setattr(ds, name, DicomSequence(value) if is_sequence else value)
    return ds


def _image(
    pixels: np.ndarray, sop_class: str, series: str, frame_of_reference: str, syntax: str
) -> Dataset:
    ds = FileDataset("", {}, preamble=b"\0" * 128)
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.PatientName, ds.PatientID = "Doe^Jane", "PID-4711"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), series
    ds.FrameOfReferenceUID = frame_of_reference
    ds.SeriesNumber, ds.Modality = 3, "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(pixels.dtype == np.int16)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def move(index: int, axis: int, by: float) -> Edit:
    """An edit: this slice lies so many mm further along an axis of LPS."""

    def edit(ds: Dataset, i: int) -> None:
        if i == index:
            ds.ImagePositionPatient[axis] += by

    return edit


def refused(
    error: type[errors.IsletError], files: list[Path], *said: str, **kwargs: Any
) -> errors.IsletError:
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
