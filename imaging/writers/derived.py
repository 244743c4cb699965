"""What every DICOM output shares: its CT's patient and study, a series of its own, who made it.

The CT's own words are copied as they are; the series, the instance and what hangs on them get new
UIDs on every call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import Dataset, dcmwrite
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat

from imaging.errors import BadShape, NotDicom
from imaging.source import PATIENT_AND_STUDY, DicomSource, SourceSlice
from imaging.version import VERSION
from imaging.volume import Volume
from imaging.writers.segments import Algorithm, Code, Segment, check_segments

if TYPE_CHECKING:
    from pydicom.sr.coding import Code as PydicomCode

ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
# Elements that must be there, empty where the CT has none (type 2).
_ALWAYS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
# A CT of series number 3 gives series 301, 302, ..., so that viewers list them beside it.
_NUMBERS_A_SERIES = 100
_LARGEST_SERIES_NUMBER = 10_000_000
_UTF8 = "ISO_IR 192"
# A text element (LT, LO) of the longest kind that is written here.
_LONGEST = 64


def source_of(labels: Volume, segments: Sequence[Segment]) -> DicomSource:
    """The series behind a label map that DICOM can be made of.

    Raises:
        NotDicom: the CT came without DICOM headers, or they lack the UIDs to refer to it by.
        BadShape: the label map is not on the slices of its source.
        BadParameter: the segments are none, or not distinct.
    """
    check_segments(segments)
    source = labels.source
    if source is None:
        raise NotDicom(
            "The CT was not read from DICOM, so there is no patient, study or series that a DICOM "
            "output could belong to; send the DICOM series, or ask for NIfTI."
        )
    if labels.array.shape[0] != len(source.slices) or labels.array.dtype.name != "uint8":
        raise BadShape(
            f"A label map of {labels.array.shape} {labels.array.dtype} does not lie on "
            f"{len(source.slices)} DICOM slices; give uint8 on the CT's own grid."
        )
    lacking = [n for n in _NEEDED if any(not header.get(n) for header in source.datasets)]
    if lacking:
        raise NotDicom(
            f"The DICOM files have no {' and no '.join(lacking)}, so nothing can refer to them; "
            "export the series again, or ask for NIfTI.",
            lacking=lacking,
        )
    return source


def frame_of_reference(source: DicomSource) -> str:
    """The CT's frame of reference; where it lost its own, one that its series always gets."""
    known = source.header.get("FrameOfReferenceUID")
    return str(known or generate_uid(entropy_srcs=[str(source.header.SeriesInstanceUID)]))


def reference(source: DicomSource, where: SourceSlice) -> Dataset:
    """An item that refers to one slice: its file and, in a multi-frame file, its frame."""
    item = _instance(source.datasets[where.dataset])
    if where.frame is not None:
        item.ReferencedFrameNumber = where.frame
    return item


def instances(source: DicomSource) -> list[Dataset]:
    """Items that refer to every file of the series."""
    return [_instance(header) for header in source.datasets]


def _instance(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def evidence(source: DicomSource) -> list[Dataset]:
    """The files of the series as highdicom takes them, with the UIDs and nothing of the patient."""
    return [_nameless(source, str(h.SOPClassUID), str(h.SOPInstanceUID)) for h in source.datasets]


def stand_ins(source: DicomSource, gap: float, rows: int, columns: int) -> list[Dataset]:
    """The slices as highdicom takes them: single images, each under a UID of its own.

    Frames of multi-frame files need no other treatment then. Nothing of the patient is in them, as
    highdicom would log a name that it takes for odd; :func:`describe` adds it in the end.

    Args:
        source: the series.
        gap: mm between slices. It stands for their thickness too, as a voxel of a mask reaches
            half-way to its neighbours.
        rows: of the pixels that highdicom gets.
        columns: likewise.
    """
    found = []
    for where in source.slices:
        image = _nameless(source, "1.2.840.10008.5.1.4.1.1.2", generate_uid(prefix=None))
        image.Rows, image.Columns = rows, columns
        image.ImagePositionPatient = _decimals(where.position)
        image.ImageOrientationPatient = _decimals(source.orientation)
        image.PixelSpacing = _decimals(source.spacing)
        image.SliceThickness, image.SpacingBetweenSlices = _decimals([gap, gap])
        found.append(image)
    return found


def _decimals(values: Iterable[float]) -> list[DSfloat]:
    return [DSfloat(value, auto_format=True) for value in values]


def _nameless(source: DicomSource, sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    for name in _ALWAYS:
        setattr(item, name, None)
    item.Modality = "CT"
    item.SOPClassUID, item.SOPInstanceUID = sop_class, uid
    item.StudyInstanceUID = source.header.StudyInstanceUID
    item.SeriesInstanceUID = source.header.SeriesInstanceUID
    item.FrameOfReferenceUID = frame_of_reference(source)
    return item


def describe(
    output: Dataset,
    source: DicomSource,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    number: int,
) -> None:
    """Say of an output whose it is and who made it.

    Args:
        output: gets the elements of patient, study, series and equipment.
        source: the CT's.
        segments: whose words are in the output.
        algorithm: that made it.
        number: of this kind of output, 1..99.
    """
    header = source.header
    for name in _ALWAYS:
        setattr(output, name, None)
    for name in PATIENT_AND_STUDY:
        if name in header:
            output[name] = header[name]
    character_set = _character_set(source, segments, algorithm)
    if character_set:
        output.SpecificCharacterSet = character_set
    output.SeriesNumber = _series_number(source) + number
    output.SeriesDescription = f"{algorithm.name} {output.Modality}"[:_LONGEST]
    now = datetime.now()
    output.SeriesDate, output.SeriesTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    output.Manufacturer = algorithm.manufacturer
    output.ManufacturerModelName = algorithm.name
    output.SoftwareVersions = [algorithm.version, f"Islet {VERSION}"]
    # The model's hash: it names exactly what made this, as a serial number does.
    output.DeviceSerialNumber = algorithm.sha256 or algorithm.version


def _character_set(
    source: DicomSource, segments: Sequence[Segment], algorithm: Algorithm
) -> str | list[str] | None:
    """The CT's own; UTF-8 where our words need more than the ASCII that is in every set."""
    words = [algorithm.name, algorithm.version, algorithm.manufacturer, algorithm.description]
    for segment in segments:
        words += [segment.name, segment.label, segment.kind.meaning, segment.category.meaning]
        words += [segment.anatomy.meaning] if segment.anatomy else []
    if not all(word.isascii() for word in words):
        return _UTF8
    known: str | list[str] | None = source.header.get("SpecificCharacterSet")
    return known


def _series_number(source: DicomSource) -> int:
    known = source.header.get("SeriesNumber")
    base = int(known) if isinstance(known, int) and 0 < known < _LARGEST_SERIES_NUMBER else 0
    return base * _NUMBERS_A_SERIES


def coded(code: Code) -> PydicomCode:
    """A code as highdicom takes it."""
    from pydicom.sr.coding import Code as PydicomCode

    return PydicomCode(code.value, code.scheme, code.meaning)


def encode(output: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    buffer = BytesIO()
    dcmwrite(buffer, output, enforce_file_format=True)
    return buffer.getvalue()
