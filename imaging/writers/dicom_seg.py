"""DICOM SEG out: each segment's voxels on the slices of its CT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from imaging.dicom_headers import quiet
from imaging.errors import BadParameter
from imaging.source import DicomSource
from imaging.volume import Volume
from imaging.writers.derived import (
    ARTIFICIAL_INTELLIGENCE,
    coded,
    describe,
    encode,
    instances,
    reference,
    source_of,
    stand_ins,
)
from imaging.writers.segments import LABEL_VALUES, Algorithm, Counts, Segment, voxel_counts

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

# What a style is numbered as among the outputs of one CT.
STYLES = {"binary": 1, "binary-full": 4, "labelmap": 5}


def encode_seg(
    labels: Volume, segments: Sequence[Segment], algorithm: Algorithm, style: str = "binary"
) -> bytes:
    """A DICOM segmentation of a label map; UIDs and dates are new each time, pixels are not.

    Args:
        labels: uint8 (Z, Y, X) with the source that it was read from.
        segments: numbered from 1 in this order.
        algorithm: the model.
        style: "binary": one bit a voxel and segment, an organ with its lesions, without frames
            where a segment has no voxel; "binary-full": with those frames too; "labelmap": one
            value a voxel, an organ without its lesions (newer readers only).

    Returns:
        A file of the SOP class Segmentation Storage, or Label Map Segmentation Storage.

    Raises:
        NotDicom: the CT came without DICOM headers.
        BadParameter: an unknown style, or segments that are not distinct.
    """
    if style not in STYLES:
        raise BadParameter(f"There is no SEG style {style!r}; use one of {', '.join(STYLES)}.")
    source = source_of(labels, segments)
    with quiet():
        if style == "labelmap":
            made = _labelmap(labels, source, segments, algorithm)
        else:
            made = _binary(labels, source, segments, algorithm, full=style == "binary-full")
        describe(made, source, segments, algorithm, STYLES[style])
        return encode(made)


def _binary(
    labels: Volume,
    source: DicomSource,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    full: bool,
) -> Segmentation:
    counts = voxel_counts(labels)
    has_voxels = np.stack([counts[:, s.table].any(axis=1) for s in segments], axis=-1)
    # highdicom lays out the frames of one-voxel slices; the real bits are packed here. Given whole
    # masks it would need a byte for every voxel of every segment and eight more to see overlaps.
    made = _segmentation(
        labels,
        source,
        has_voxels[:, None, None, :].astype(np.uint8),
        "BINARY",
        _descriptions(segments, algorithm),
        omit_empty_frames=not full,
    )
    frames = [(_segment_number(item), place) for item, place in _refer(made, source)]
    made.Rows, made.Columns = labels.array.shape[1:]
    made.SegmentsOverlap = "YES" if _overlap(segments, counts) else "NO"
    made["PixelData"].value = _packed(
        segments[number - 1].table[labels.array[place]] for number, place in frames
    )
    return made


def _labelmap(
    labels: Volume, source: DicomSource, segments: Sequence[Segment], algorithm: Algorithm
) -> Segmentation:
    numbers = np.zeros(LABEL_VALUES, np.uint8)
    for number, segment in enumerate(segments, 1):
        numbers[segment.value] = number
    # gdcm, which packs the frames, aborts the process over one of an odd number of pixels.
    is_odd = labels.array[0].size % 2
    made = _segmentation(
        labels,
        source,
        numbers[labels.array],
        "LABELMAP",
        _descriptions(segments, algorithm),
        transfer_syntax_uid=ExplicitVRLittleEndian if is_odd else RLELossless,
    )
    _refer(made, source)
    return made


def _segmentation(
    labels: Volume,
    source: DicomSource,
    pixels: NDArray[np.uint8],
    kind: str,
    descriptions: list[SegmentDescription],
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
    **options: Any,
) -> Segmentation:
    import highdicom

    return highdicom.seg.Segmentation(
        source_images=stand_ins(source, labels.geometry.spacing[0], *pixels.shape[1:3]),
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(prefix=None),
        series_number=1,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="",
        manufacturer_model_name="",
        software_versions="",
        device_serial_number="",
        content_label="SEGMENTATION",
        content_description="Automatic segmentation of a CT",
        transfer_syntax_uid=transfer_syntax_uid,
        **options,
    )


def _descriptions(segments: Sequence[Segment], algorithm: Algorithm) -> list[SegmentDescription]:
    import highdicom

    made_by = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=coded(ARTIFICIAL_INTELLIGENCE),
        version=algorithm.version,
        source=algorithm.manufacturer,
        parameters={"sha256": algorithm.sha256} if algorithm.sha256 else None,
    )
    found = []
    for number, segment in enumerate(segments, 1):
        item = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.label,
            segmented_property_category=coded(segment.category),
            segmented_property_type=coded(segment.kind),
            algorithm_type="AUTOMATIC",
            algorithm_identification=made_by,
            tracking_uid=generate_uid(prefix=None),
            tracking_id=segment.name,
            anatomic_regions=[coded(segment.anatomy)] if segment.anatomy else None,
            display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
        )
        found.append(item)
    return found


def _refer(made: Segmentation, source: DicomSource) -> list[tuple[Dataset, int]]:
    """Replace stand-ins by the CT; give each frame's item and the slice that it is on."""
    places = {item.ReferencedSOPInstanceUID: i for i, item in enumerate(made.SourceImageSequence)}
    items = [
        (frame, frame.DerivationImageSequence[0].SourceImageSequence[0])
        for frame in made.PerFrameFunctionalGroupsSequence
    ]
    # First all, then change: frames of several segments on one slice share the item.
    frames = [(frame, places[item.ReferencedSOPInstanceUID]) for frame, item in items]
    for (_, place), (_, item) in zip(frames, items, strict=True):
        item.update(reference(source, source.slices[place]))
    made.SourceImageSequence = instances(source)
    made.ReferencedSeriesSequence[0].ReferencedInstanceSequence = instances(source)
    return frames


def _segment_number(frame: Dataset) -> int:
    # With a single segment its number is said once for all frames.
    if "SegmentIdentificationSequence" not in frame:
        return 1
    return int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _overlap(segments: Sequence[Segment], counts: Counts) -> bool:
    shared = np.sum([segment.table for segment in segments], axis=0) > 1
    return bool(counts[:, shared].any())


def _packed(frames: Iterable[NDArray[np.bool_]]) -> bytes:
    """Bits of all frames on end, so that a frame may begin within a byte; of even length."""
    packed, left = bytearray(), np.empty(0, np.bool_)
    for frame in frames:
        bits = np.concatenate([left, frame.ravel()]) if left.size else frame.ravel()
        whole = bits.size // 8 * 8
        packed += np.packbits(bits[:whole], bitorder="little").tobytes()
        left = bits[whole:]
    packed += np.packbits(left, bitorder="little").tobytes()
    return bytes(packed + b"\0" * (len(packed) % 2))
