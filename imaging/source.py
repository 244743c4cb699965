"""Where a volume came from: the DICOM slices behind it, for outputs that refer back to them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread

from imaging.dicom_headers import PARSE_ERRORS, Image, readable
from imaging.geometry import Float

# What an output carries over to stand beside its CT: the patient and study modules (PS3.3
# C.7.1.1, C.7.1.3, C.7.2.1 to C.7.2.3). Physicians and notes that a mask has no use for stay out.
PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "OtherPatientIDsSequence",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "QualityControlSubject",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "ProcedureCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientSexNeutered",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)
_OF_THE_SERIES = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "BodyPartExamined",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_ELEMENTS = [*PATIENT_AND_STUDY, *_OF_THE_SERIES]


@dataclass(frozen=True)
class SourceSlice:
    """One slice of a volume in its file.

    Attributes:
        dataset: index of its file's header among ``DicomSource.datasets``.
        frame: number of the frame in a multi-frame file, from 1; None in a file of one slice.
        position: ImagePositionPatient as the file says it, LPS mm of the first pixel's centre.
    """

    dataset: int
    frame: int | None
    position: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class DicomSource:
    """The series a volume was read from.

    Its headers name a patient, so they must never be logged or end in a report.

    Attributes:
        slices: one for each slice of the volume, in the order of its first axis.
        datasets: headers without pixel data, one a file, as far as outputs have use for them.
        orientation: ImageOrientationPatient of all slices: unit vectors along a row and a column.
        spacing: PixelSpacing of all slices: mm between rows, then between columns.
    """

    slices: tuple[SourceSlice, ...]
    datasets: tuple[Dataset, ...] = field(repr=False)
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]

    @property
    def header(self) -> Dataset:
        """The header that speaks for the series: that of the first slice."""
        return self.datasets[self.slices[0].dataset]

    def to_world(self, index: int, pixels: Any) -> Float:
        """LPS mm (N, 3) of fractional pixels (N, 2), in (y, x), of slice ``index``."""
        along_row, along_column = np.reshape(self.orientation, (2, 3))
        steps = np.stack([along_column * self.spacing[0], along_row * self.spacing[1]])
        return np.asarray(pixels, np.float64) @ steps + self.slices[index].position


def read_source(
    images: Sequence[Image], order: Sequence[int], files: Sequence[Path]
) -> DicomSource:
    """The headers of a series that was checked.

    Args:
        images: of the series.
        order: which of their frames, counted through all images, is which slice.
        files: the list that ``Image.number`` counts in.
    """
    slices = [
        SourceSlice(
            place,
            frame.index + 1 if image.is_multiframe else None,
            _three(frame.position),
        )
        for place, image in enumerate(images)
        for frame in image.frames
    ]
    first = images[0].frames[0]
    return DicomSource(
        tuple(slices[number] for number in order),
        tuple(_header(files[image.number - 1], image.number) for image in images),
        tuple(first.orientation or ()),
        tuple(first.pixel_spacing or ()),
    )


def _header(path: Path, number: int) -> Dataset:
    with readable(number):
        stored = dcmread(path, force=True, stop_before_pixels=True, specific_tags=_ELEMENTS)
    header = Dataset()
    for name in _ELEMENTS:
        # One that does not parse is as good as none.
        with suppress(*PARSE_ERRORS):
            header[name] = stored[name]
    return header


def _three(values: tuple[float, ...] | None) -> tuple[float, float, float]:
    x, y, z = values or ()
    return x, y, z
