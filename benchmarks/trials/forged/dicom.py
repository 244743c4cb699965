"""DICOM that lies: elements missing, of the wrong kind or huge; series that are no CT volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from benchmarks.trials.forged.case import Answer, Case
from benchmarks.trials.forged.series import (
    SERIES,
    SERIES_UID,
    SPACING,
    STORED,
    Spoil,
    put_raw,
    write_classic,
    write_multiframe,
)

FAMILY = "dicom"
_DICOM_OUTPUTS = "seg,rtstruct,sr"
_PLACED = Answer(STORED.shape, SPACING)


def cases() -> Iterator[Case]:
    """Of elements, and of series."""
    for part in (_missing, _kinds_of_image, _places, _units, _sizes, _wrong_kinds, _names, _frames):
        yield from part()


def spoiled(name: str, spoil: Spoil, expected: str | Answer, **more: Any) -> Case:
    """A case of a classic series whose slices are spoiled."""

    def write(folder: Path) -> Path:
        write_classic(folder, spoil)
        return folder

    return Case(f"{FAMILY}: {name}", FAMILY, write, expected, **more)


def put(only: int | None = None, **elements: object) -> Spoil:
    """Give elements other values, in all slices or one."""

    def spoil(ds: Dataset, index: int) -> None:
        if only in (None, index):
            for name, value in elements.items():
                setattr(ds, name, value)

    return spoil


def relabelled(
    name: str,
    elements: dict[str, tuple[str, bytes]],
    expected: str | Answer,
    only: int | None = None,
    **more: Any,
) -> Case:
    """A case of a series whose elements have any kind and any bytes, in all slices or one."""

    def write(folder: Path) -> Path:
        for index, path in enumerate(write_classic(folder)):
            if only in (None, index):
                for keyword, (vr, data) in elements.items():
                    put_raw(path, keyword, vr, data)
        return folder

    return Case(f"{FAMILY}: {name}", FAMILY, write, expected, **more)


def _drop(ds: Dataset, index: int, name: str, only: int | None = None) -> None:
    if only in (None, index):
        delattr(ds, name)


def _missing() -> Iterator[Case]:
    """A series without an element."""
    codes = {
        "SamplesPerPixel": "truncated_file",
        "SeriesInstanceUID": "truncated_file",
        "Rows": "truncated_file",
        "Columns": "truncated_file",
        "PixelData": "truncated_file",
        "BitsAllocated": "truncated_file",
        "BitsStored": "truncated_file",
        "PixelRepresentation": "truncated_file",
        "Modality": "not_ct",
        "PhotometricInterpretation": "colour_image",
        "RescaleSlope": "missing_rescale",
        "RescaleIntercept": "missing_rescale",
        "ImagePositionPatient": "missing_position",
        "ImageOrientationPatient": "missing_position",
        "PixelSpacing": "missing_position",
    }
    for name, code in codes.items():
        yield spoiled(f"no {name}", partial(_drop, name=name), code)
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID", "ImageType",
                 "FrameOfReferenceUID", "SeriesNumber", "InstanceNumber", "SOPClassUID",
                 "RescaleType"):  # fmt: skip
        yield spoiled(f"no {name}", partial(_drop, name=name), SERIES)
    for name, code in (("RescaleIntercept", "missing_rescale"), ("PixelData", "truncated_file")):
        yield spoiled(f"a slice without {name}", partial(_drop, name=name, only=3), code)


def _kinds_of_image() -> Iterator[Case]:
    """Series that are no CT."""
    for name, sop_class, modality, code in (
        ("MR", MRImageStorage, "MR", "not_ct"),
        ("PET", PositronEmissionTomographyImageStorage, "PT", "not_ct"),
        ("a radiograph", ComputedRadiographyImageStorage, "CR", "not_ct"),
        ("a dose", RTDoseStorage, "RTDOSE", "not_ct"),
        ("a segmentation", SegmentationStorage, "SEG", "not_ct"),
        ("a screenshot", SecondaryCaptureImageStorage, "CT", "secondary_capture"),
        ("a class that does not exist", "1.2.840.10008.5.1.4.1.1.999", "CT", "not_ct"),
        ("a private class", "1.3.12.2.1107.5.9.1", "CT", "not_ct"),
    ):
        yield spoiled(name, put(SOPClassUID=sop_class, Modality=modality), code)
    yield spoiled("MR in a class of CT", put(Modality="MR"), "not_ct")
    yield spoiled("a modality in small letters", put(Modality="ct"), "not_ct")
    localizer = put(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    yield spoiled("localizers", localizer, "localizer")
    words = put(ImageType=["DERIVED", "SECONDARY", "MPR", "", "\\"])
    yield spoiled("an odd type of image", words, SERIES)
    for name, colour, expected in (
        ("MONOCHROME1", "MONOCHROME1", SERIES),
        ("RGB of one sample", "RGB", "colour_image"),
        ("a palette", "PALETTE COLOR", "colour_image"),
        ("no such colour", "TEAL", "colour_image"),
    ):
        yield spoiled(name, put(PhotometricInterpretation=colour), expected)
    yield spoiled("three samples", put(SamplesPerPixel=3), "colour_image")
    yield spoiled("65,535 samples", put(SamplesPerPixel=65535), "colour_image")
    yield spoiled("another series asked for", put(), "series_not_found", series="2.25.9")
    yield spoiled("the series asked for", put(), SERIES, series=SERIES_UID)
    yield spoiled("each slice a series", _own_series, "several_series")
    yield spoiled("references to itself", _cyclic, SERIES, outputs=_DICOM_OUTPUTS)


def _own_series(ds: Dataset, index: int) -> None:
    ds.SeriesInstanceUID = f"2.25.{3000 + index}"


def _cyclic(ds: Dataset, index: int) -> None:
    """Each slice is made from the next, and the last from the first."""
    source = Dataset()
    source.ReferencedSOPClassUID = ds.SOPClassUID
    source.ReferencedSOPInstanceUID = f"2.25.{2000 + (index + 1) % len(STORED)}"
    ds.SourceImageSequence = [source]


def _shift(ds: Dataset, index: int, axis: int, by: Callable[[int], float]) -> None:
    position = [float(v) for v in ds.ImagePositionPatient]
    position[axis] += by(index)
    ds.ImagePositionPatient = [f"{v:.10g}" for v in position]


def _moved(name: str, axis: int, by: Callable[[int], float], expected: str | Answer) -> Case:
    return spoiled(name, partial(_shift, axis=axis, by=by), expected)


def _places() -> Iterator[Case]:
    """Slices that are nowhere, in one place, or unevenly spread."""
    half, third = len(STORED) // 2, 3
    yield _moved("all slices in one place", 2, lambda i: -2.5 * i, "duplicate_slices")
    yield _moved("two slices in one place", 2, lambda i: 2.5 * (i == third), "duplicate_slices")
    yield _moved("a gap", 2, lambda i: 2.5 * (i > half), "missing_slices")
    yield _moved("uneven slices", 2, lambda i: 0.7 * (i == third), "uneven_slices")
    yield _moved("two stacks", 2, lambda i: 10_000.0 * (i > third), "uneven_slices")
    yield _moved("a tilted gantry", 1, lambda i: 0.5 * i, "gantry_tilt")
    yield _moved("jitter below what is tolerated", 2, lambda i: 0.001 * (i == third), _PLACED)
    yield _moved("a kilometre away", 0, lambda _: 9e5, _PLACED)
    yield _moved("farther than any place", 0, lambda _: 1e7, "missing_position")
    for name, values, code in (
        ("a position of two numbers", ["0", "0"], "missing_position"),
        ("a position of four numbers", ["0", "0", "0", "0"], "missing_position"),
    ):
        yield spoiled(name, put(ImagePositionPatient=values), code)
    for name, cosines, expected in (
        ("an orientation of zeros", [0] * 6, "bad_geometry"),
        ("an orientation of one axis", [1, 0, 0, 1, 0, 0], "bad_geometry"),
        ("an orientation not of length 1", [2, 0, 0, 0, 2, 0], "bad_geometry"),
        ("an orientation of five numbers", [1, 0, 0, 0, 1], "missing_position"),
        ("slices stacked across their normal", [1, 0, 0, 0, 0, 1], "gantry_tilt"),
        ("a mirrored orientation", [-1, 0, 0, 0, 1, 0], _PLACED),
    ):
        yield spoiled(name, put(ImageOrientationPatient=cosines), expected)
    for name, spacing, code in (
        ("a spacing of zero", [0.9, 0], "bad_geometry"),
        ("a spacing below zero", [-0.9, 0.7], "bad_geometry"),
        ("a spacing of one number", [0.9], "missing_position"),
        ("a spacing of 10 m", [10_000, 10_000], "bad_geometry"),
        ("a spacing of 10^9 mm", ["1e9", "1e9"], "missing_position"),
    ):
        yield spoiled(name, put(PixelSpacing=spacing), code)
    other = put(3, ImageOrientationPatient=[0, 1, 0, 1, 0, 0])
    yield spoiled("one slice turned", other, "mixed_slices")
    yield spoiled("one slice of other spacing", put(3, PixelSpacing=[0.9, 0.71]), "mixed_slices")
    yield spoiled("two frames of reference", put(3, FrameOfReferenceUID="2.25.8"), "mixed_slices")


def _units() -> Iterator[Case]:
    """Slopes and intercepts."""
    low, high = float(STORED.min()), float(STORED.max())
    for name, slope, found in (
        ("slope of 0", 0, "missing_rescale"),
        ("slope of 1e300", "1e300", "missing_rescale"),
        ("slope below zero", -1, (-high - 1024, -low - 1024)),
        ("slope of a half", "0.5", (low / 2 - 1024, high / 2 - 1024)),
        ("slope of one part in 10^30", "1e-30", (-1024.0, -1024.0)),
    ):
        expected = found if isinstance(found, str) else Answer(STORED.shape, SPACING, found)
        yield spoiled(name, put(RescaleSlope=slope), expected)
    far = Answer(STORED.shape, SPACING, (low + 500_000, high + 500_000), ("beyond 16 bits",))
    yield spoiled("intercept beyond 16 bits", put(RescaleIntercept=500_000), far)
    yield spoiled("intercept of 10^8", put(RescaleIntercept="1e8"), "missing_rescale")
    density = Answer(STORED.shape, SPACING, SERIES.hu, ("rescale type is HGML",))
    yield spoiled("units that are not HU", put(RescaleType="HGML"), density)
    for word in (b"nan ", b"inf ", b"1,5 ", b"one ", b"1\\2 ", b"    ", b"0x10"):
        code = "missing_rescale" if word in (b"nan ", b"inf ", b"    ") else "truncated_file"
        yield relabelled(f"slope {word.decode()!r}", {"RescaleSlope": ("DS", word)}, code, 2)


def _sizes() -> Iterator[Case]:
    """Sizes that the pixels do not have."""
    for name, elements, code in (
        ("no rows", {"Rows": 0}, "bad_shape"),
        ("no columns", {"Columns": 0}, "bad_shape"),
        ("65,535 rows and columns", {"Rows": 65535, "Columns": 65535}, "input_too_large"),
        ("a row too many", {"Rows": 9}, "truncated_file"),
        ("a thousand rows too many", {"Rows": 1008}, "truncated_file"),
        ("bits stored over those allocated", {"BitsStored": 32, "HighBit": 31}, "truncated_file"),
        ("no bits stored", {"BitsStored": 0}, "unsupported_format"),
        ("no bits allocated", {"BitsAllocated": 0}, "truncated_file"),
        ("12 bits allocated", {"BitsAllocated": 12, "BitsStored": 12}, "truncated_file"),
        ("64 bits allocated", {"BitsAllocated": 64}, "truncated_file"),
        ("65,535 bits allocated", {"BitsAllocated": 65535}, "truncated_file"),
        ("a sign of 7", {"PixelRepresentation": 7}, "truncated_file"),
        ("two frames said of one", {"NumberOfFrames": 2}, "missing_rescale"),
        ("2^31 frames said of one", {"NumberOfFrames": 2**31 - 1}, "missing_rescale"),
        ("fewer than no frames", {"NumberOfFrames": -1}, "missing_rescale"),
    ):
        yield spoiled(name, put(**elements), code)
    few = Answer((5, 7, 10), SPACING)
    yield spoiled("a row too few", put(Rows=7), few)
    yield spoiled("no frames said of one", put(NumberOfFrames=0), SERIES)
    yield spoiled("one slice of other size", put(3, Rows=10, Columns=8), "mixed_slices")


def _wrong_kinds() -> Iterator[Case]:
    """Value representations and values that are not the element's."""
    for name, keyword, vr, data, expected in (
        ("rows of four bytes", "Rows", "UL", b"\x08\0\0\0", SERIES),
        ("rows of one byte", "Rows", "US", b"\x08", "truncated_file"),
        ("rows in words", "Rows", "LO", b"eight ", "truncated_file"),
        ("rows of a float", "Rows", "FL", b"\0\0\0\x41", "truncated_file"),
        ("rows of two numbers", "Rows", "US", b"\x08\0\x08\0", "truncated_file"),
        ("a spacing in words", "PixelSpacing", "LO", b"wide\\tall ", "truncated_file"),
        ("a spacing as text", "PixelSpacing", "LO", b"0.9\\0.7 ", SERIES),
        ("a spacing of commas", "PixelSpacing", "DS", b"0,9\\0,7 ", "truncated_file"),
        ("a position in words", "ImagePositionPatient", "DS", b"a\\b\\c ", "truncated_file"),
        ("an unknown position", "ImagePositionPatient", "UN", b"\xff" * 8, "truncated_file"),
        ("a modality of no kind", "Modality", "ZZ", b"CT", "truncated_file"),
        ("frames in words", "NumberOfFrames", "IS", b"many", "truncated_file"),
        ("frames of 10^20", "NumberOfFrames", "IS", b"1" + b"0" * 20 + b" ", "missing_rescale"),
        ("a series number in words", "SeriesNumber", "IS", b"three ", SERIES),
        ("a name of noise", "PatientName", "PN", bytes(range(128, 256)), SERIES),
        ("an identifier of noise", "SeriesInstanceUID", "UI", b"\xff" * 64, SERIES),
        ("an identifier of 60,000 digits", "SeriesInstanceUID", "UI", b"1" * 60_000, SERIES),
        ("bits in words", "BitsAllocated", "LO", b"sixteen ", "truncated_file"),
    ):
        yield relabelled(name, {keyword: (vr, data)}, expected)


def _names() -> Iterator[Case]:
    """Character sets, for the outputs that repeat what they name."""
    for name, words, patient in (
        ("UTF-16", b"ISO_IR 192", "Дое^Яна".encode("utf-16")),
        ("half of a letter in UTF-8", b"ISO_IR 192", "Дое^Яна".encode()[:-1]),
        ("GB18030", b"GB18030 ", "王^小东".encode("gb18030") + b" "),
        ("escapes that do not end", b"\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED^"),
        ("an unknown character set", b"ISO_IR 9999", b"Doe^Jane"),
        ("fifty character sets", b"\\".join([b"ISO_IR 100"] * 50) + b" ", b"Doe^Jane"),
        ("a control code", b"ISO_IR 100", b"Doe^\x00\x07\x1bJane\n "),
    ):
        elements = {"SpecificCharacterSet": ("CS", words), "PatientName": ("PN", patient)}
        yield relabelled(f"a name in {name}", elements, SERIES, outputs=_DICOM_OUTPUTS)
    # No word of the standard; what it turns into is no unit that is known.
    utf_16 = {"SpecificCharacterSet": ("CS", b"UTF-16"), "PatientName": ("PN", b"D\0o\0e\0")}
    odd = Answer(STORED.shape, SPACING, SERIES.hu, ("rescale type is",))
    yield relabelled("a name in UTF-16 by its own word", utf_16, odd, outputs=_DICOM_OUTPUTS)
    for name, keyword, vr, data in (
        ("a name of 60,000 letters", "PatientName", "PN", b"x" * 60_000),
        ("a date that is none", "StudyDate", "DA", b"31.12.99"),
        ("an age that is none", "PatientAge", "AS", b"old "),
        ("a weight that is none", "PatientWeight", "DS", b"heavy "),
        ("a study without a number", "StudyInstanceUID", "UI", b"none"),
    ):
        yield relabelled(name, {keyword: (vr, data)}, SERIES, outputs=_DICOM_OUTPUTS)


def _framed(name: str, spoil: Spoil, expected: str | Answer) -> Case:
    return Case(f"{FAMILY}: {name}", FAMILY, partial(write_multiframe, spoil=spoil), expected)


def _frames() -> Iterator[Case]:
    """Enhanced CT."""
    yield _framed("an enhanced CT", put(), SERIES)
    yield _framed("frames fewer than said", put(NumberOfFrames=6), "truncated_file")
    yield _framed("frames more than said", put(NumberOfFrames=4), "truncated_file")
    yield _framed("frames of 2^31", put(NumberOfFrames=2**31 - 1), "truncated_file")
    yield _framed("frames without groups", put(PerFrameFunctionalGroupsSequence=[]), (
        "truncated_file"
    ))  # fmt: skip
    yield _framed("no shared groups", put(SharedFunctionalGroupsSequence=[]), "missing_rescale")
    mr = put(SOPClassUID=EnhancedMRImageStorage, Modality="MR")
    yield _framed("an enhanced MR", mr, "not_ct")
    yield _framed("frames in one place", _one_place, "duplicate_slices")


def _one_place(ds: Dataset, _: int) -> None:
    groups = ds.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
