"""A DICOM CT series in: classic or enhanced multi-frame, in any order, exact or refused.

Headers are checked before any pixel is decoded. Stored values become Hounsfield units by each
slice's own rescale; how a viewer would show them (MONOCHROME1, windows, real-world maps) does not
touch them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from imaging.allowance import Allowance
from imaging.codestreams import check_frames
from imaging.dicom_checks import (
    check_complete,
    check_size,
    check_uniform,
    kind_fault,
    pixel_spacing,
    stack_of,
    usual_gap,
)
from imaging.dicom_headers import CT_CLASSES, Frame, Image, quiet, read_image, readable
from imaging.errors import (
    InputTooLarge,
    NotCT,
    SeriesNotFound,
    SeveralSeries,
    UnsupportedFormat,
)
from imaging.geometry import Geometry
from imaging.limits import DEFAULT_LIMITS, Limits
from imaging.source import read_source
from imaging.volume import Volume

# Objects that lie beside a series without being part of it; some of them hold pixels too.
COMPANIONS = frozenset(
    {"DOC", "FID", "KO", "M3D", "PLAN", "PR", "REG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD"}
    | {"RTSTRUCT", "RWV", "SEG", "SR"}
)
LOSSY_SYNTAXES = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000})
INT16 = np.iinfo(np.int16)


def read_dicom(
    files: Sequence[Path],
    series: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    headers: bool = False,
) -> Volume:
    """Read one CT series.

    Files that are no DICOM, directories (DICOMDIR) and companions (SEG, SR, RTSTRUCT, ...) are
    left out, and so are localizers and series that are no CT while one CT series remains.

    Args:
        files: in any order; content decides what each is.
        series: SeriesInstanceUID to take; needed where several CT series are among the files.
        limits: upper bounds on files, bytes and voxels, checked before pixels are decoded.
        headers: whether to keep what DICOM outputs refer to, as ``Volume.source``.

    Returns:
        Hounsfield units (Z, Y, X) as int16, or float32 where a rescale is not integral or a value
        does not fit; slices ascend along the normal of the image plane.

    Raises:
        UnsupportedFormat: no DICOM among the files, or a compression without a decoder here.
        TruncatedFile, InputTooLarge, BadShape, BadGeometry, DicomError.
    """
    _check_files(files, limits)
    allowance = Allowance(limits)
    with quiet():
        images = [
            image
            for number, path in enumerate(files, 1)
            if (image := read_image(path, number, allowance)) is not None
        ]
        if not images:
            raise UnsupportedFormat(
                f"None of the {len(files)} files is DICOM; send the files of one CT series.",
                files=len(files),
            )
        chosen = _choose(images, series)
        check_size(chosen, limits)
        frames = [frame for image in chosen for frame in image.frames]
        check_complete(frames)
        check_uniform(chosen)
        stack = stack_of(frames)
        shape = (len(frames), chosen[0].rows, chosen[0].columns)
        geometry, notes = Geometry.from_affine(shape, stack.affine)
        source = read_source(chosen, stack.order, files) if headers else None
        array = _decode(chosen, np.argsort(stack.order), shape)
    return Volume(array, geometry, (*notes, *_notes(chosen, len(images), array)), source)


def _check_files(files: Sequence[Path], limits: Limits) -> None:
    if len(files) > limits.max_files:
        raise InputTooLarge(
            f"There are {len(files)} files, over the limit of {limits.max_files}; send one series.",
            files=len(files),
            max_files=limits.max_files,
        )
    total = sum(path.stat().st_size for path in files)
    if total > limits.max_unpacked_bytes:
        raise InputTooLarge(
            f"The files have {total} bytes, over the limit of {limits.max_unpacked_bytes}; send "
            "one series.",
            bytes=total,
            max_unpacked_bytes=limits.max_unpacked_bytes,
        )


def _choose(images: Sequence[Image], series: str | None) -> list[Image]:
    """The slices of the one series to read, localizers left out."""
    groups: dict[str, list[Image]] = {}
    for image in images:
        if (image.rows or image.sop_class in CT_CLASSES) and image.modality not in COMPANIONS:
            groups.setdefault(image.series, []).append(image)
    if not groups:
        raise _only_companions(images)
    if series is not None and series not in groups:
        raise SeriesNotFound(
            f"No image belongs to series {series}; there are: {_sentence(groups)}.",
            asked=series,
            series=_listing(groups),
        )
    considered = groups if series is None else {series: groups[series]}
    faults = {uid: kind_fault(group) for uid, group in considered.items()}
    clean = {uid: considered[uid] for uid, fault in faults.items() if fault is None}
    if len(clean) > 1:
        raise SeveralSeries(
            f"The input holds {len(clean)} CT series; name one by its SeriesInstanceUID: "
            f"{_sentence(clean)}.",
            series=_listing(clean),
        )
    for group in clean.values():
        return [image for image in group if not image.is_localizer]
    raise next(fault for fault in faults.values() if fault is not None)


def _only_companions(images: Sequence[Image]) -> NotCT:
    found = sorted({image.modality or UID(image.sop_class).name for image in images})
    return NotCT(
        f"The DICOM files hold {', '.join(found)} and no CT images; send the CT series.",
        modality=found,
    )


def _listing(groups: dict[str, list[Image]]) -> list[dict[str, Any]]:
    return [_summary(uid, group) for uid, group in groups.items()]


def _summary(uid: str, group: Sequence[Image]) -> dict[str, Any]:
    frames = [frame for image in group for frame in image.frames]
    gap = usual_gap(frames)
    return {
        "series": uid,
        "series_number": group[0].series_number,
        "modality": group[0].modality,
        "slices": len(frames) or len(group),
        "rows": group[0].rows,
        "columns": group[0].columns,
        "slice_spacing_mm": None if gap is None else round(gap, 4),
        "pixel_spacing_mm": pixel_spacing(frames),
    }


def _sentence(groups: dict[str, list[Image]]) -> str:
    return "; ".join(
        f"{s['series']} ({s['modality']}, number {s['series_number'] or '?'}, {s['slices']} "
        f"slices of {s['rows']}x{s['columns']}, {s['slice_spacing_mm'] or '?'} mm apart)"
        for s in _listing(groups)
    )


def _decode(
    images: Sequence[Image], places: NDArray[np.intp], shape: tuple[int, int, int]
) -> NDArray[Any]:
    """Hounsfield units (Z, Y, X); ``places`` says where each frame goes along the first axis."""
    frames = [frame for image in images for frame in image.frames]
    whole = all(map(_is_integral, frames)) and all(im.bits_allocated <= 16 for im in images)
    out: NDArray[Any] = np.empty(shape, np.int16 if whole else np.float32)
    slot = iter(places)
    for image in images:
        for frame, stored in zip(image.frames, _stored(image), strict=True):
            values = _rescale(stored, frame, np.int32 if whole else np.float64)
            if out.dtype == np.int16 and (values.min() < INT16.min or values.max() > INT16.max):
                out = out.astype(np.float32)  # exact for what 16 bits and an offset can hold
            out[next(slot)] = values
        # The decoder leaves the pixels that it has read in the header.
        del image.header.PixelData
    return out


def _is_integral(frame: Frame) -> bool:
    slope, intercept = frame.slope or 0.0, frame.intercept or 0.0
    fits = abs(slope) * 2**16 + abs(intercept) < 2**24
    return fits and slope.is_integer() and intercept.is_integer()


def _rescale(stored: NDArray[Any], frame: Frame, dtype: type[Any]) -> NDArray[Any]:
    values = stored.astype(dtype)
    if frame.slope != 1:
        values *= dtype(frame.slope)
    values += dtype(frame.intercept)
    return values


def _stored(image: Image) -> Iterator[NDArray[Any]]:
    """Stored values (rows, columns) of each frame of a file, in the file's order."""
    syntax = UID(image.syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        raise UnsupportedFormat(
            f"There is no decoder for the transfer syntax {syntax.name} ({syntax}); send the "
            "series uncompressed.",
            transfer_syntax=str(syntax),
        )
    with readable(image.number):
        _check_bits(image.header)
        if syntax.is_encapsulated:
            check_frames(image.header, syntax, len(image.frames))
        for frame, (values, _) in zip(image.frames, decoder.iter_array(image.header), strict=True):
            if values.shape != (image.rows, image.columns):
                raise ValueError(f"frame {frame.index} decodes to {values.shape}")
            yield values


def _check_bits(header: Dataset) -> None:
    """Refuse values that do not begin at the lowest bit, as they shall (PS3.5 8.1.1)."""
    stored, high = int(header.BitsStored), int(header.get("HighBit", header.BitsStored - 1))
    if stored < header.BitsAllocated and high != stored - 1:
        raise UnsupportedFormat(
            f"HighBit is {high} where {stored} bits are stored of {header.BitsAllocated}; it must "
            f"be {stored - 1}. Export the series again.",
            high_bit=high,
            bits_stored=stored,
        )


def _notes(images: Sequence[Image], found: int, array: NDArray[Any]) -> Iterator[str]:
    """Sentences on what was assumed of the series."""
    frames = [frame for image in images for frame in image.frames]
    if len(images) < found:
        yield f"{found - len(images)} other DICOM files (localizers, other series) were left out."
    lossy = ", ".join(sorted({UID(image.syntax).name for image in images if _is_lossy(image)}))
    if lossy:
        yield f"The series was compressed with loss ({lossy}); its values are approximate."
    units = ", ".join(sorted({frame.units for frame in frames} - {"HU", "US"}))
    if units:
        yield f"The rescale type is {units}; its values were taken for Hounsfield units."
    if array.dtype == np.float32 and all(map(_is_integral, frames)):
        yield (
            f"Values run from {array.min():g} to {array.max():g}, beyond 16 bits; they were kept "
            "as they are."
        )


def _is_lossy(image: Image) -> bool:
    if image.declared_lossy is None:
        return image.syntax in LOSSY_SYNTAXES
    return image.declared_lossy
