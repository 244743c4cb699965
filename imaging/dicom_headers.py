"""DICOM files to plain values: what a file says of itself, read once and without its pixels."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from imaging.allowance import Allowance
from imaging.errors import TruncatedFile

CT_CLASSES = frozenset(
    {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
)

# 128 bytes of preamble and "DICM".
_PREFIX_END = 132
# The element that holds the length of group 2.
_GROUP_LENGTH_BYTES = 12
# Values above this stay in the file until they are asked for, so headers alone fill the memory.
_DEFER_BYTES = 65536

# Of a deflated file no more is inflated to come to what stands before its pixels.
_HEAD_BYTES = 2**24
_PIXELS = 0x7FE0

# Only these are parsed: faster, and nothing that names a patient is ever in memory.
_ELEMENTS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FrameOfReferenceUID",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "LossyImageCompression",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]

# What pydicom and its codecs raise on bytes that are not what they promise.
PARSE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Frame:
    """One slice; None where the file does not say.

    Attributes:
        index: of the frame in its file, from 0.
        position: LPS (x, y, z) in mm of the centre of the first pixel.
        orientation: LPS unit vectors along a row (3) and along a column (3).
        pixel_spacing: mm between rows, then between columns.
        slope, intercept: stored value to Hounsfield units.
        units: RescaleType, "HU" where it is absent.
    """

    index: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    units: str


@dataclass(frozen=True, eq=False)
class Image:
    """One DICOM file.

    Attributes:
        number: of the file in the list that was read, from 1; messages name files by it, as file
            names may hold patient names.
        header: for the decoder; its pixel data is still on disk.
        frames: one for each slice in the file.
    """

    number: int
    header: Dataset
    sop_class: str
    modality: str
    series: str
    series_number: str
    frame_of_reference: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    syntax: str
    declared_lossy: bool | None
    frames: tuple[Frame, ...]

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in self.image_type

    @property
    def is_multiframe(self) -> bool:
        return "PerFrameFunctionalGroupsSequence" in self.header


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (132 bytes or more) may be DICOM.

    A data set without the preamble begins with an element of group 2 or 8 (little endian).
    """
    return head[128:132] == b"DICM" or (
        head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom and highdicom from speaking."""
    # Odd values in headers make them warn, log and quote them, and a broken file may have an
    # identifier there. The level stays: restored by one thread, it would speak in another.
    for name in ("pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def readable(number: int) -> Iterator[None]:
    """Turn what a parser or codec raises on broken bytes into :class:`TruncatedFile`."""
    try:
        yield
    except PARSE_ERRORS as error:
        raise TruncatedFile(
            f"DICOM file {number} of the input ends too early or does not decode "
            f"({type(error).__name__}); send it again.",
            file=number,
        ) from error


def read_image(path: Path, number: int, allowance: Allowance) -> Image | None:
    """What the file says of itself, or None where it is no DICOM or a DICOMDIR.

    Args:
        path: any file.
        number: how messages shall name it.
        allowance: of the input that the file belongs to.

    Raises:
        TruncatedFile: DICOM that breaks off or does not parse.
        InputTooLarge: more than is allowed.
    """
    with path.open("rb") as file:
        head = file.read(_PREFIX_END)
    if not is_dicom(head):
        return None
    if head[128:132] != b"DICM":
        allowance.take(path, 0, number, ImplicitVRLittleEndian)
        return _read_bare(path, number)
    with readable(number):
        meta, start = _file_meta(path)
        if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            return None
        syntax = str(meta.get("TransferSyntaxUID") or "")
        allowance.take(path, start, number, syntax)
        # An inflated data set lives in memory alone, so nothing of it can be left for later.
        defer = None if syntax == DeflatedExplicitVRLittleEndian else _DEFER_BYTES
        header = dcmread(path, defer_size=defer, specific_tags=_ELEMENTS)
        return _image(header, number)


def head_of(path: Path) -> Dataset:
    """What a DICOM file with a preamble says before its pixels, for who sorts files unread.

    Of a deflated file the first 16 MiB are inflated and no more, however long it claims to be.

    Raises:
        TruncatedFile: it does not parse.
    """
    with readable(1):
        meta, start = _file_meta(path)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return dcmread(path, stop_before_pixels=True)
        with path.open("rb") as file:
            file.seek(start)
            packed = file.read(_HEAD_BYTES)
        head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, _HEAD_BYTES)
        return read_dataset(
            BytesIO(head), False, True, stop_when=lambda tag, _vr, _length: tag.group == _PIXELS
        )


def _read_bare(path: Path, number: int) -> Image | None:
    """A data set without preamble, if it parses as one of a standard class; else no DICOM."""
    try:
        header = dcmread(path, force=True, defer_size=_DEFER_BYTES, specific_tags=_ELEMENTS)
        if not str(header.get("SOPClassUID", "")).startswith("1.2.840.10008."):
            return None
        header.file_meta.TransferSyntaxUID = header.file_meta.get(
            "TransferSyntaxUID", ImplicitVRLittleEndian
        )
    except PARSE_ERRORS:
        return None
    with readable(number):
        return _image(header, number)


def _file_meta(path: Path) -> tuple[Dataset, int]:
    """The elements of group 2 and where in the file the data set begins after them."""
    with path.open("rb") as file:
        file.seek(_PREFIX_END)
        meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
        start = file.tell()
        # A value that the end of the file cut off is parsed all the same; its length tells.
        announced = meta.get("FileMetaInformationGroupLength")
        if announced is not None and start < _PREFIX_END + _GROUP_LENGTH_BYTES + int(announced):
            raise EOFError("the file meta information is shorter than it says")
        return meta, start


def _image(header: Dataset, number: int) -> Image:
    meta = header.file_meta
    named = str(meta.get("MediaStorageSOPClassUID") or "")
    sop_class = str(header.get("SOPClassUID") or named)
    if sop_class != named and named.startswith(sop_class):
        sop_class = ""  # cut off within its value
    is_ct = sop_class in CT_CLASSES
    needed = ("SeriesInstanceUID", "Rows", "Columns", "PixelData") if is_ct else ()
    lacking = [name for name in needed if name not in header]
    if lacking or not sop_class:
        raise TruncatedFile(
            f"DICOM file {number} of the input ends before its "
            f"{lacking[0] if lacking else 'SOPClassUID'}; send it again.",
            file=number,
        )
    lossy = header.get("LossyImageCompression")
    return Image(
        number=number,
        header=header,
        sop_class=sop_class,
        modality=str(header.get("Modality") or ""),
        series=str(header.get("SeriesInstanceUID") or ""),
        series_number=str(header.get("SeriesNumber") or ""),
        frame_of_reference=str(header.get("FrameOfReferenceUID") or ""),
        image_type=tuple(str(word).upper() for word in _listed(header.get("ImageType"))),
        rows=int(header.get("Rows") or 0),
        columns=int(header.get("Columns") or 0),
        samples=int(header.get("SamplesPerPixel") or 1),
        photometric=str(header.get("PhotometricInterpretation") or ""),
        bits_allocated=int(header.get("BitsAllocated") or 0),
        syntax=str(meta.get("TransferSyntaxUID") or ""),
        declared_lossy=None if lossy is None else str(lossy) == "01",
        frames=_frames(header, number) if is_ct else (),
    )


def _frames(header: Dataset, number: int) -> tuple[Frame, ...]:
    count = int(header.get("NumberOfFrames") or 1)
    each = header.get("PerFrameFunctionalGroupsSequence")
    if each is None:
        # Several frames in a classic CT have one position between them: as good as none.
        return (_frame((header,) * 4 if count == 1 else (Dataset(),) * 4, 0),)
    if len(each) != count:
        raise TruncatedFile(
            f"DICOM file {number} of the input announces {count} frames and describes "
            f"{len(each)}; send it again.",
            file=number,
            announced=count,
            described=len(each),
        )
    shared = next(iter(header.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    groups = (
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
    )
    return tuple(
        _frame(tuple(_group(name, item, shared) for name in groups), index)
        for index, item in enumerate(each)
    )


def _group(name: str, item: Dataset, shared: Dataset) -> Dataset:
    """The functional group of one frame: its own, else the one that all frames share."""
    found = item.get(name) or shared.get(name)
    return found[0] if found else Dataset()


def _frame(groups: tuple[Dataset, ...], index: int) -> Frame:
    position, orientation, measures, values = groups
    return Frame(
        index=index,
        position=_numbers(position.get("ImagePositionPatient"), 3),
        orientation=_numbers(orientation.get("ImageOrientationPatient"), 6),
        pixel_spacing=_numbers(measures.get("PixelSpacing"), 2),
        slope=_number(values.get("RescaleSlope")),
        intercept=_number(values.get("RescaleIntercept")),
        units=str(values.get("RescaleType") or "HU"),
    )


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    values = tuple(float(v) for v in _listed(value))
    return values if len(values) == count else None


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)
