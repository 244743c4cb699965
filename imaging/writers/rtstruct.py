"""RTSTRUCT out: each segment as contours in the planes of its CT's slices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from imaging.dicom_headers import quiet
from imaging.geometry import Float
from imaging.source import DicomSource
from imaging.volume import Volume
from imaging.writers.contours import outlines
from imaging.writers.derived import (
    ARTIFICIAL_INTELLIGENCE,
    describe,
    encode,
    frame_of_reference,
    reference,
    source_of,
)
from imaging.writers.segments import Algorithm, Code, Counts, Segment, voxel_counts

# What it is numbered as among the outputs of one CT.
NUMBER = 2
# Retired, but the place of the study's UID here is an element that must be filled.
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
_CONTOUR_DATA = Tag("ContourData")
# A tenth of a micrometre: with places below 10^6 mm, a number is at most 12 of its 16 bytes.
_DECIMALS = 4


def encode_rtstruct(labels: Volume, segments: Sequence[Segment], algorithm: Algorithm) -> bytes:
    """An RT structure set of a label map; UIDs and dates are new each time, contours are not.

    A segment that has no voxel is a region without contours.

    Args:
        labels: uint8 (Z, Y, X) with the source that it was read from.
        segments: numbered from 1 in this order; an organ's contours go around its lesions too.
        algorithm: the model.

    Returns:
        A file of the SOP class RT Structure Set Storage. Implicit VR, as a contour may be longer
        than the 65534 bytes that explicit VR allows.

    Raises:
        NotDicom: the CT came without DICOM headers.
        BadParameter: segments that are not distinct.
    """
    source = source_of(labels, segments)
    with quiet():
        made = _item()
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        made.SOPClassUID, made.SOPInstanceUID = RTStructureSetStorage, generate_uid(prefix=None)
        made.SeriesInstanceUID, made.Modality = generate_uid(prefix=None), "RTSTRUCT"
        made.InstanceNumber, made.OperatorsName = 1, None
        describe(made, source, segments, algorithm, NUMBER)
        _structure_set(made, source)
        counts = voxel_counts(labels)
        millilitres = counts.sum(axis=0) * labels.geometry.voxel_ml
        numbered = list(enumerate(segments, 1))
        made.StructureSetROISequence = [
            _region(number, s, algorithm, float(millilitres[s.table].sum()), source)
            for number, s in numbered
        ]
        made.ROIContourSequence = [
            _drawn(number, s, labels, counts, source) for number, s in numbered
        ]
        made.RTROIObservationsSequence = [_observation(number, s) for number, s in numbered]
        made.ApprovalStatus = "UNAPPROVED"
        _written_as_it_is(made, made.get("SpecificCharacterSet"))
        return encode(made)


def _structure_set(made: Dataset, source: DicomSource) -> None:
    now = datetime.now()
    made.InstanceCreationDate = made.StructureSetDate = now.strftime("%Y%m%d")
    made.InstanceCreationTime = made.StructureSetTime = now.strftime("%H%M%S")
    made.StructureSetLabel = "SEGMENTATION"
    made.StructureSetDescription = "Automatic segmentation of a CT"
    made.FrameOfReferenceUID = frame_of_reference(source)
    made.PositionReferenceIndicator = source.header.get("PositionReferenceIndicator")
    series = _item(
        SeriesInstanceUID=source.header.SeriesInstanceUID,
        ContourImageSequence=[reference(source, where) for where in source.slices],
    )
    study = _item(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=source.header.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    frame = _item(FrameOfReferenceUID=frame_of_reference(source), RTReferencedStudySequence=[study])
    made.ReferencedFrameOfReferenceSequence = [frame]


def _region(
    number: int, segment: Segment, algorithm: Algorithm, millilitres: float, source: DicomSource
) -> Dataset:
    made_by = _item(
        AlgorithmName=algorithm.name,
        AlgorithmVersion=algorithm.version,
        AlgorithmSource=algorithm.manufacturer,
        AlgorithmFamilyCodeSequence=[_code_item(ARTIFICIAL_INTELLIGENCE)],
    )
    if algorithm.sha256:
        made_by.AlgorithmParameters = f"sha256={algorithm.sha256}"
    return _item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=frame_of_reference(source),
        ROIName=segment.name,
        ROIDescription=segment.label,
        ROIVolume=f"{millilitres:.10g}",
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=f"{algorithm.name} {algorithm.version}"[:64],
        ROIDerivationAlgorithmIdentificationSequence=[made_by],
    )


def _drawn(
    number: int, segment: Segment, labels: Volume, counts: Counts, source: DicomSource
) -> Dataset:
    table = segment.table
    polygons = [
        (int(place), polygon)
        for place in np.flatnonzero(counts[:, table].any(axis=1))
        for polygon in outlines(table[labels.array[place]])
    ]
    contours = [
        _contour(count, source.to_world(place, polygon), reference(source, source.slices[place]))
        for count, (place, polygon) in enumerate(polygons, 1)
    ]
    item = _item(ROIDisplayColor=list(segment.colour), ReferencedROINumber=number)
    if contours:
        item.ContourSequence = contours
    return item


def _contour(count: int, points: Float, image: Dataset) -> Dataset:
    item = _item(
        ContourNumber=count,
        ContourImageSequence=[image],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
    )
    # As bytes, which are written as they are: pydicom would make an object of each of a million
    # numbers. Adding 0 turns -0 to 0.
    numbers = tuple((points.round(_DECIMALS) + 0.0).ravel().tolist())
    text = ("%.10g\\" * len(numbers) % numbers)[:-1].encode()
    text += b" " * (len(text) % 2)
    item[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(text), text, 0, True, True)
    return item


def _observation(number: int, segment: Segment) -> Dataset:
    item = _item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIIdentificationCodeSequence=[_code_item(segment.kind)],
        SegmentedPropertyCategoryCodeSequence=[_code_item(segment.category)],
        # A lesion is no target volume before somebody who treats has said so.
        RTROIInterpretedType="" if segment.anatomy else "ORGAN",
        ROIInterpreter=None,
    )
    if segment.anatomy:
        item.AnatomicRegionSequence = [_code_item(segment.anatomy)]
    return item


def _code_item(code: Code) -> Dataset:
    return _item(
        CodeValue=code.value,
        CodingSchemeDesignator=code.scheme,
        CodeMeaning=code.meaning,
    )


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    _written_as_it_is(item)
    for name, value in elements.items():
        setattr(item, name, value)
    return item


def _written_as_it_is(item: Dataset, character_set: str | list[str] | None = None) -> None:
    # As if read in the encoding of the file, or pydicom would parse contours before it writes them.
    encodings = convert_encodings(character_set) if character_set else default_encoding
    item.set_original_encoding(True, True, encodings)
