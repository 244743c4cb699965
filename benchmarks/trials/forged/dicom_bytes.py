"""DICOM that is broken below its elements: lengths, nesting, pixels, encodings, sets of files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gdcm
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from benchmarks.trials.forged.case import Answer, Case
from benchmarks.trials.forged.dicom import FAMILY
from benchmarks.trials.forged.series import (
    SERIES,
    SPACING,
    STORED,
    Spoil,
    write_classic,
)
from tests.imaging.dicom_files import no_edit, transcode

Change = Callable[[list[Path]], object]

# Of explicit elements with four bytes of length, and of items (PS3.5 7.1.2, 7.5).
_ITEM, _ITEM_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0" + bytes(4)
_SEQUENCE_END, _ENDLESS = b"\xfe\xff\xdd\xe0" + bytes(4), b"\xff" * 4


def cases() -> Iterator[Case]:
    """Of bytes and of sets of files."""
    for part in (_cut, _lengths, _nested, _encodings, _codecs, _private):
        yield from part()


def changed(
    name: str, change: Change, expected: str | Answer, spoil: Spoil = no_edit, syntax: str = ""
) -> Case:
    """A case of a classic series whose files are changed once they are written."""

    def write(folder: Path) -> Path:
        change(write_classic(folder, spoil, **({"syntax": syntax} if syntax else {})))
        return folder

    return Case(f"{FAMILY}: {name}", FAMILY, write, expected)


def _cut() -> Iterator[Case]:
    """A file that breaks off."""
    for place in (0, 1, 131):
        yield changed(f"cut to {place} bytes", partial(_keep, end=place), "missing_slices")
    for place in (132, 140, 200, 400, -300, -160, -2, -1):
        yield changed(f"cut at {place}", partial(_keep, end=place), "truncated_file")
    yield changed("zeros behind the pixels", partial(_append, data=bytes(4096)), SERIES)
    yield changed("noise behind the pixels", partial(_append, data=b"\xfa" * 4096), SERIES)


def _keep(files: list[Path], end: int | None) -> None:
    files[2].write_bytes(files[2].read_bytes()[:end])


def _append(files: list[Path], data: bytes) -> None:
    for path in files:
        path.write_bytes(path.read_bytes() + data)


def _insert(files: list[Path], data: bytes, before: bytes = b"\x10\x00\x10\x00") -> None:
    """Put bytes before an element of every file; PatientName where none is named."""
    for path in files:
        raw = path.read_bytes()
        place = raw.index(before, 132)
        path.write_bytes(raw[:place] + data + raw[place:])


def _element(vr: bytes, length: bytes, data: bytes, tag: bytes = b"\x09\x00\x10\x10") -> bytes:
    """A private element of a kind whose length has four bytes."""
    return tag + vr + bytes(2) + length + data


def _lengths() -> Iterator[Case]:
    """Lengths that are not those of the values."""
    huge = struct.pack("<L", 2**32 - 16)
    for name, data, expected in (
        ("an element of 4 GB", _element(b"UT", huge, b""), "truncated_file"),
        ("an element of 2 MB", _element(b"OB", struct.pack("<L", 2**21), bytes(2**21)), SERIES),
        ("an element of 1 byte", _element(b"OB", struct.pack("<L", 1), b"x"), SERIES),
        ("an unknown element without end", _element(b"UN", _ENDLESS, _SEQUENCE_END), SERIES),
        ("an element twice", 2 * _element(b"OB", struct.pack("<L", 2), b"xx"), SERIES),
        ("a kind that does not exist", b"\x09\x00\x10\x10ZZ\x02\x00xx", SERIES),
        ("a sequence of no items", _element(b"SQ", bytes(4), b""), SERIES),
        ("a sequence without end", _element(b"SQ", _ENDLESS, _ITEM + _ENDLESS), "truncated_file"),
        ("an item longer than its sequence", _element(
            b"SQ", struct.pack("<L", 8), _ITEM + struct.pack("<L", 4096)), SERIES),
        ("an end without a sequence", _SEQUENCE_END, SERIES),
    ):  # fmt: skip
        yield changed(name, partial(_insert, data=data), expected)
    yield changed("more file meta information than said", partial(_meta_length, value=8), SERIES)
    yield changed("less file meta information than said", partial(_meta_length, value=2**20), (
        "truncated_file"
    ))  # fmt: skip
    odd = partial(_insert, data=_element(b"OB", struct.pack("<L", 3), b"xxx"))
    yield changed("an odd length", odd, SERIES)


def _meta_length(files: list[Path], value: int) -> None:
    for path in files:
        raw = bytearray(path.read_bytes())
        struct.pack_into("<L", raw, 140, value)
        path.write_bytes(raw)


def _nested() -> Iterator[Case]:
    """Sequences in sequences, and sequences of very many items."""
    for depth in (10, 100):
        yield changed(f"{depth} sequences deep", partial(_insert, data=_deep(depth)), SERIES)
    for depth in (5_000, 50_000):
        data = _deep(depth)
        yield changed(f"{depth} sequences deep", partial(_insert, data=data), "truncated_file")
    many = _element(b"SQ", struct.pack("<L", 8 * 20_000), (_ITEM + bytes(4)) * 20_000)
    yield changed("20,000 empty items", partial(_insert, data=many), SERIES)
    group = b"\x00\x52\x30\x92"
    bomb = _element(b"SQ", _ENDLESS, (_ITEM + bytes(4)) * 500_000 + _SEQUENCE_END, group)
    write = partial(_classic_with_groups, data=bomb)
    yield Case(f"{FAMILY}: 500,000 groups of frames", FAMILY, write, "input_too_large")


def _deep(depth: int) -> bytes:
    """A sequence without lengths in one in one; the standard sets no bound."""
    begin = _element(b"SQ", _ENDLESS, _ITEM + _ENDLESS)
    return begin * depth + (_ITEM_END + _SEQUENCE_END) * depth


def _classic_with_groups(folder: Path, data: bytes) -> Path:
    files = write_classic(folder)
    for path in files[1:]:
        path.unlink()
    _insert(files[:1], data, before=b"\xe0\x7f\x10\x00")
    return folder


def _encodings() -> Iterator[Case]:
    """Transfer syntaxes: all there are, several in one series, and wrong ones."""
    for name, syntax in (
        ("implicit", ImplicitVRLittleEndian),
        ("deflated", DeflatedExplicitVRLittleEndian),
    ):
        yield changed(f"{name} elements", no_change, SERIES, syntax=syntax)
    for name, number in (
        ("big-endian", gdcm.TransferSyntax.ExplicitVRBigEndian),
        ("RLE", gdcm.TransferSyntax.RLELossless),
        ("JPEG Lossless", gdcm.TransferSyntax.JPEGLosslessProcess14_1),
        ("JPEG-LS", gdcm.TransferSyntax.JPEGLSLossless),
        ("JPEG 2000", gdcm.TransferSyntax.JPEG2000Lossless),
    ):
        yield changed(f"{name} pixels", partial(_transcode, number=number), SERIES)
    yield changed("five transfer syntaxes", _mixed, SERIES)
    for name, uid, code in (
        ("a syntax without a decoder", HTJ2KLossless, "unsupported_format"),
        ("a syntax that does not exist", "1.2.840.10008.1.2.999", "unsupported_format"),
        ("a syntax in words", "raw", "unsupported_format"),
        ("JPEG 2000 said of plain pixels", JPEG2000Lossless, "truncated_file"),
        ("run lengths said of plain pixels", RLELossless, "truncated_file"),
        ("deflate said of plain elements", DeflatedExplicitVRLittleEndian, "truncated_file"),
    ):
        yield changed(name, partial(_syntax, uid=uid), code)
    yield changed("deflated elements that break off", partial(_keep, end=-40), "truncated_file",
                  syntax=DeflatedExplicitVRLittleEndian)  # fmt: skip
    yield Case(f"{FAMILY}: deflated files of 2 MB in 300 kB", FAMILY, partial(_dense, slices=2),
               Answer((2, 1000, 1000), SPACING, (-1024.0, -1024.0)))  # fmt: skip
    yield Case(f"{FAMILY}: deflated files of 80 MB together", FAMILY, partial(_dense, slices=40),
               "input_too_large")  # fmt: skip


def _dense(folder: Path, slices: int) -> Path:
    """Deflated files of 2 MB each, small as they lie there."""
    blank = np.zeros((slices, 1000, 1000), np.uint16)
    write_classic(folder, stored=blank, syntax=DeflatedExplicitVRLittleEndian)
    return folder


def no_change(files: list[Path]) -> None:
    """Leave the files as they are."""


def _transcode(files: list[Path], number: int) -> None:
    for path in files:
        transcode(path, number)


def _mixed(files: list[Path]) -> None:
    for path, number in zip(
        files,
        (
            gdcm.TransferSyntax.ImplicitVRLittleEndian,
            gdcm.TransferSyntax.RLELossless,
            gdcm.TransferSyntax.JPEGLSLossless,
            gdcm.TransferSyntax.JPEG2000Lossless,
        ),
        strict=False,
    ):
        transcode(path, number)


def _syntax(files: list[Path], uid: str) -> None:
    """Say another transfer syntax than there is."""
    for path in files:
        path.write_bytes(_with_meta(path, uid))


def _with_meta(path: Path, uid: str) -> bytes:
    """The file with another syntax in its meta information and the same data set."""
    raw = path.read_bytes()
    place = raw.index(b"\x02\x00\x10\x00UI")
    length = struct.unpack_from("<H", raw, place + 6)[0]
    said = uid.encode() + b"\0" * (len(uid) % 2)
    whole = raw[: place + 6] + struct.pack("<H", len(said)) + said + raw[place + 8 + length :]
    total = struct.unpack_from("<L", raw, 140)[0] + len(said) - length
    return whole[:140] + struct.pack("<L", total) + whole[144:]


def _codecs() -> Iterator[Case]:
    """Codestreams that are not what the elements around them say."""
    stream = {
        "two bytes": b"\0\0",
        "noise": b"\xa5" * 500,
        "a JPEG 2000 header alone": b"\xff\x4f\xff\x51",
        "a JPEG of 65,535 rows": b"\xff\xd8\xff\xc3\0\x0b\x10\xff\xff\xff\xff\1\1\x11\0",
        "a JPEG without end": b"\xff\xd8" + b"\xff\xe0\0\x02" * 1000,
    }  # fmt: skip
    for name, data in stream.items():
        change = partial(_encapsulated, data=data)
        yield changed(f"pixels of {name}", change, "truncated_file")
    cut = partial(_cut_stream, number=gdcm.TransferSyntax.JPEG2000Lossless)
    yield changed("a JPEG 2000 stream that breaks off", cut, "truncated_file")
    runs = partial(_cut_stream, number=gdcm.TransferSyntax.RLELossless)
    yield changed("run lengths that break off", runs, "truncated_file")


def _encapsulated(files: list[Path], data: bytes) -> None:
    ds = dcmread(files[2])
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.PixelData = encapsulate([data])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(files[2])


def _cut_stream(files: list[Path], number: int) -> None:
    _transcode(files, number)
    ds = dcmread(files[2])
    ds.PixelData = encapsulate([next(generate_frames(ds.PixelData, number_of_frames=1))[:70]])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(files[2])


def _private() -> Iterator[Case]:
    """Pixels where nobody looks for them."""
    yield changed("private pixels alone", no_change, "truncated_file", spoil=_hidden)
    pixels = partial(_insert, data=_element(b"OW", struct.pack("<L", 4), b"xxxx"))
    yield changed("private pixels besides", pixels, SERIES)
    for keyword, vr in (("FloatPixelData", "OF"), ("DoubleFloatPixelData", "OD")):
        spoil = partial(_in_floats, keyword=keyword, vr=vr)
        yield changed(f"{keyword} alone", no_change, "truncated_file", spoil=spoil)
    icon = partial(_insert, data=_deep(1), before=b"\x28\x00\x02\x00")
    yield changed("a private sequence in the way", icon, SERIES)


def _hidden(ds: Dataset, _: int) -> None:
    block = ds.private_block(0x0029, "FORGED", create=True)
    block.add_new(0x10, "OW", ds.PixelData)
    del ds.PixelData


def _in_floats(ds: Dataset, index: int, keyword: str, vr: str) -> None:
    data = STORED[index].astype("<f4" if vr == "OF" else "<f8").tobytes()
    ds.add_new(keyword, vr, data)
    del ds.PixelData
