"""DICOM SR out: a measurement report (TID 1500) with the volume of each segment."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage, generate_uid

from imaging.dicom_headers import quiet
from imaging.errors import BadParameter
from imaging.source import DicomSource
from imaging.volume import Volume
from imaging.writers.derived import (
    ARTIFICIAL_INTELLIGENCE,
    coded,
    describe,
    encode,
    evidence,
    source_of,
)
from imaging.writers.segments import Algorithm, Code, Segment, voxel_counts

if TYPE_CHECKING:
    from highdicom.sr import AlgorithmIdentification

# What it is numbered as among the outputs of one CT.
NUMBER = 3
CT = Code("25045-6", "LN", "CT unspecified body region")
DEVICE = Code("121007", "DCM", "Device")
VOLUME = Code("118565006", "SCT", "Volume")
MILLILITRE = Code("mL", "UCUM", "milliliter")
SUM_OF_VOXELS = Code("126030", "DCM", "Sum of segmented voxel volumes")
# A voxel of a fine CT has a tenth of a microlitre.
_DECIMALS = 4


def encode_sr(
    labels: Volume,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    seg: bytes | None = None,
) -> bytes:
    """A measurement report on a label map; UIDs and dates are new each time, values are not.

    Every segment gets one group of measurements: what it is, where, and its volume in mL. A
    segment without a voxel gets a volume of 0.

    Args:
        labels: uint8 (Z, Y, X) with the source that it was read from.
        segments: an organ's volume counts its lesions.
        algorithm: the model.
        seg: ``encode_seg``'s bytes for the same label map and segments, not of style "labelmap".
            Then each group refers to its segment there and shares its tracking identifier.

    Returns:
        A file of the SOP class Comprehensive SR Storage.

    Raises:
        NotDicom: the CT came without DICOM headers.
        BadParameter: segments that are not distinct, or a SEG that is not of them.
    """
    source = source_of(labels, segments)
    with quiet():
        referred = None if seg is None else _read_seg(seg, segments)
        made = _document(labels, source, segments, algorithm, referred)
        describe(made, source, segments, algorithm, NUMBER)
        return encode(made)


def _read_seg(seg: bytes, segments: Sequence[Segment]) -> Dataset:
    read = dcmread(BytesIO(seg), stop_before_pixels=True)
    held = [str(item.get("TrackingID", "")) for item in read.get("SegmentSequence", ())]
    if read.SOPClassUID != SegmentationStorage or held != [s.name for s in segments]:
        raise BadParameter(
            f"The SEG holds {held} and the report is on {[s.name for s in segments]}; give the "
            "SEG of the same segments, with one bit a voxel."
        )
    return read


def _document(
    labels: Volume,
    source: DicomSource,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    seg: Dataset | None,
) -> Dataset:
    import highdicom

    report = highdicom.sr.MeasurementReport(
        observation_context=_observer(algorithm),
        procedure_reported=coded(CT),
        imaging_measurements=_groups(labels, source, segments, algorithm, seg),
    )
    document: Dataset = highdicom.sr.ComprehensiveSR(
        evidence=[*evidence(source), *([] if seg is None else [seg])],
        content=report,
        series_instance_uid=generate_uid(prefix=None),
        series_number=1,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        is_complete=True,
    )
    return document


def _observer(algorithm: Algorithm) -> Any:
    from highdicom import sr

    # The same model is the same device in every report.
    uid = generate_uid(entropy_srcs=[algorithm.sha256, algorithm.name, algorithm.version])
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid,
        name=algorithm.name,
        manufacturer_name=algorithm.manufacturer,
        model_name=algorithm.name,
        serial_number=algorithm.sha256 or algorithm.version,
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=coded(DEVICE), observer_identifying_attributes=device
        )
    )


def _groups(
    labels: Volume,
    source: DicomSource,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    seg: Dataset | None,
) -> list[Any]:
    from highdicom import sr

    millilitres = voxel_counts(labels).sum(axis=0) * labels.geometry.voxel_ml
    made_by = sr.AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        parameters=[f"sha256={algorithm.sha256}"] if algorithm.sha256 else None,
        family=coded(ARTIFICIAL_INTELLIGENCE),
        manufacturer=algorithm.manufacturer,
    )
    found = []
    for number, segment in enumerate(segments, 1):
        volume = float(millilitres[segment.table].sum())
        said = _said(segment, volume, made_by, seg, number)
        if seg is None or volume == 0:
            group = sr.MeasurementsAndQualitativeEvaluations(**said)
        else:
            region = sr.ReferencedSegment(
                sop_class_uid=seg.SOPClassUID,
                sop_instance_uid=seg.SOPInstanceUID,
                segment_number=number,
                source_series=sr.SourceSeriesForSegmentation(str(source.header.SeriesInstanceUID)),
            )
            group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                referenced_segment=region, **said
            )
        found.append(group)
    return found


def _said(
    segment: Segment,
    millilitres: float,
    made_by: AlgorithmIdentification,
    seg: Dataset | None,
    number: int,
) -> dict[str, Any]:
    """What a group of measurements says, whether it refers to a segment or not."""
    from highdicom import sr

    tracking = None if seg is None else seg.SegmentSequence[number - 1].TrackingUID
    place = segment.anatomy or segment.kind
    volume = sr.Measurement(
        name=coded(VOLUME),
        value=round(millilitres, _DECIMALS),
        unit=coded(MILLILITRE),
        method=coded(SUM_OF_VOXELS),
        algorithm_id=made_by,
    )
    return {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=tracking or generate_uid(prefix=None), identifier=segment.name
        ),
        "finding_category": coded(segment.category),
        "finding_type": coded(segment.kind),
        "finding_sites": [sr.FindingSite(coded(place))],
        "measurements": [volume],
    }
