"""NIH Pancreas-CT (TCIA): DICOM series in ``PANCREAS_0001``, labels as ``label0001.nii.gz``.

The label files keep the order of the DICOM rows, which most converters of DICOM to NIfTI reverse.
Here each label voxel is put where the label file's own header says it is. A header that places
the labels elsewhere than the CT is refused when the case is loaded; which way such a file is
flipped cannot be known from it, so nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from imaging.errors import DataError
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from training.cases import Case
from training.datasets.layout import folders, mapped_cases, nifti_files
from training.datasets.stored import stored_map
from training.phantoms.scan import Phantom

PARTS = ("TCIA_pancreas_labels*", "Pancreas-CT")
NAMES: Mapping[int, str] = {1: "pancreas"}
SOURCE = {
    "name": "NIH Pancreas-CT",
    "licence": "CC BY 3.0",
    "labels": "manual, by a medical student, verified by a radiologist",
}
# Copies of case 2 that TCIA withdrew; their labels are still in the archive.
_WITHDRAWN = (25, 70)
_LABELS = ("TCIA_pancreas_labels*", "labels", "label")
_IMAGES = ("Pancreas-CT", "manifest-*/Pancreas-CT", "DOI", "data")
_AIR_HU = -1024


def marks(folder: Path) -> bool:
    """``label0001.nii.gz`` in the archive's own folder, and folders like ``PANCREAS_0001``."""
    return _labels(folder) is not None and any(_series(folder))


def cases(folder: Path) -> list[Case]:
    """The labelled series.

    Labels lie in ``TCIA_pancreas_labels-02-05-2017``, ``labels``, ``label`` or the root itself;
    series in ``Pancreas-CT``, also below a ``manifest-*`` folder of the downloader, ``DOI``,
    ``data`` or the root. Cases 25 and 70, which TCIA withdrew as copies, are left out.

    Raises:
        DataError: a label without its series, or one series in two places.
    """
    series: dict[str, Path] = {}
    for home in _series(folder):
        if home.name in series:
            raise DataError(
                f"Case {home.name}: lies in {series[home.name]} and in {home}; keep one.",
                case=home.name,
            )
        series[home.name] = home
    labels = _labels(folder) or folder
    pairs = []
    for stem, path in nifti_files(labels, "label????"):
        number = int(stem.removeprefix("label"))
        name = f"PANCREAS_{number:04d}"
        if number not in _WITHDRAWN:
            pairs.append((name, series.get(name, folder / "Pancreas-CT" / name), path))
    return mapped_cases(pairs, NAMES, SOURCE)


def write(out: Path, phantoms: Iterable[Phantom]) -> None:
    """Write phantoms as DICOM CT series, their labels with y against that of the series."""
    for number, phantom in enumerate(phantoms, 1):
        home = out / "Pancreas-CT" / f"PANCREAS_{number:04d}"
        write_series(phantom.volume, home / "phantom" / "CT", home.name)
        stored = stored_map(phantom.labels, NAMES)
        order, flips = (0, 1, 2), (False, True, False)
        geometry = stored.geometry.transposed(order, flips)
        path = out / "TCIA_pancreas_labels-02-05-2017" / f"label{number:04d}.nii.gz"
        write_nifti(Volume(stored.array[:, ::-1], geometry), path)


def write_series(volume: Volume, folder: Path, patient: str) -> None:
    """Write a CT as a DICOM series, one file a slice.

    Args:
        volume: HU from -1024 on, int16 (Z, Y, X); the last axes are rows and columns.
        folder: made where missing.
        patient: PatientID; the UIDs follow from it and the voxels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seed = [patient, sha256(volume.array.tobytes()).hexdigest()]
    uids = {key: generate_uid(entropy_srcs=[*seed, key]) for key in ("study", "series", "frame")}
    for index, pixels in enumerate(volume.array):
        ds = FileDataset("", {}, preamble=b"\0" * 128)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[*seed, str(index)])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID = uids["study"], uids["series"]
        ds.FrameOfReferenceUID = uids["frame"]
        ds.PatientID, ds.PatientName, ds.Modality = patient, patient, "CT"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SeriesNumber, ds.InstanceNumber = 1, index + 1
        _place(ds, volume, index)
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = pixels.shape
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = _AIR_HU, 1, "HU"
        ds.PixelData = (pixels.astype(np.int32) - _AIR_HU).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        dcmwrite(folder / f"1-{index + 1:03d}.dcm", ds, enforce_file_format=True)


def _place(ds: FileDataset, volume: Volume, index: int) -> None:
    """Position, orientation and spacing of one slice (PS3.3 C.7.6.2)."""
    grid = volume.geometry
    down, across = grid.direction[:, 1], grid.direction[:, 2]
    position = grid.to_world([index, 0, 0])
    ds.ImagePositionPatient = [f"{v:.10g}" for v in position]
    ds.ImageOrientationPatient = [f"{v:.10g}" for v in (*across, *down)]
    ds.PixelSpacing = [f"{v:.10g}" for v in grid.spacing[1:]]
    ds.SliceThickness = f"{grid.spacing[0]:.10g}"


def _labels(folder: Path) -> Path | None:
    homes = (*folders(folder, _LABELS), folder)
    return next((home for home in homes if any(home.glob("label????.nii*"))), None)


def _series(folder: Path) -> Iterator[Path]:
    for parent in (*folders(folder, _IMAGES), folder):
        yield from folders(parent, ["PANCREAS_????"])
