"""Zip archives: unsafe, broken, or of something else than one CT."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import repeat

from benchmarks.trials.forged.case import LIMITS, Answer, Case, bytes_case
from benchmarks.trials.forged.nifti import SOUND
from benchmarks.trials.forged.series import SERIES, series_files
from imaging.limits import MIB
from tests.imaging.nifti_files import image

FAMILY = "zip"

_EPOCH = (1980, 1, 1, 0, 0, 0)
# Signatures of the directory's entries and of its end (APPNOTE 4.3.12, 4.3.16).
_ENTRY, _END = b"PK\1\2", b"PK\5\6"
# Offsets of fields in a directory's entry.
_VERSION, _FLAGS, _METHOD, _CRC, _PACKED, _SIZE, _PLACE = 6, 8, 10, 16, 20, 24, 42

Forged = tuple[str, bytes | Callable[[], bytes], str | Answer]
Members = dict[str, bytes]


def cases() -> Iterator[Case]:
    """All of the family."""
    for part in (_names, _kinds, _broken, _lies, _bombs, _many, _contents):
        for name, data, expected in part():
            yield bytes_case(FAMILY, name, data, expected)


def packed(members: Members, method: int = zipfile.ZIP_DEFLATED, mode: int = 0) -> bytes:
    """An archive; the same bytes every time."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type, info.external_attr = method, mode << 16
            archive.writestr(info, data)
    return held.getvalue()


def _nifti() -> bytes:
    return bytes(image().to_bytes())


def _changed(data: bytes, field: int, layout: str, value: int) -> bytes:
    """An archive whose directory says something else of its first member."""
    raw = bytearray(data)
    struct.pack_into(layout, raw, raw.index(_ENTRY) + field, value)
    return bytes(raw)


def _names() -> Iterator[Forged]:
    ct = _nifti()
    deep = "/".join(repeat("d", 1000))
    for name, path in (
        ("a path a thousand folders deep", f"{deep}/ct.nii"),
        ("a name as long as may be", "x" * 65535),
        ("a name of a patient", "Doe^Jane/ct.nii"),
        ("a name in Cyrillic", "Снимки/КТ.nii"),
        ("a name with a line break", "ct\n.nii"),
        ("a name that is a device of Windows", "NUL"),
        ("a name that only seems to lead out", "..ct/...nii"),
        ("a name with a zero byte", "ct\0.nii"),
    ):
        yield name, packed({path: ct}), SOUND
    for path in (
        "/etc/cron.d/ct",
        "../ct.nii",
        "a/../../ct.nii",
        "..\\ct.nii",
        "C:\\ct.nii",
        "C:ct.nii",
        "\\\\host\\share\\ct.nii",
        "//host/share/ct.nii",
        f"{deep}/{'/'.join(repeat('..', 1001))}/ct.nii",
    ):
        yield f"a path {path[:20]}", packed({path: ct}), "unsafe_archive"
    yield "two of one name", packed({"ct.nii": ct}) + b"", SOUND
    yield "two CTs of one name", _twice("ct.nii", ct), "unsupported_format"


def _twice(name: str, data: bytes) -> bytes:
    held = packed({name: data, f"{name[:-1]}j": data})
    return held.replace(f"{name[:-1]}j".encode(), name.encode())


def _kinds() -> Iterator[Forged]:
    """Members that are no plain files."""
    ct = _nifti()
    for name, mode in (
        ("a link", stat.S_IFLNK),
        ("a pipe", stat.S_IFIFO),
        ("a device", stat.S_IFCHR),
        ("a socket", stat.S_IFSOCK),
    ):
        data = packed({"ct.nii": b"/etc/passwd"}, mode=mode | 0o777)
        yield f"{name}", data, "unsafe_archive"
    yield "a set-uid file", packed({"ct.nii": ct}, mode=stat.S_IFREG | 0o4755), SOUND
    yield "encrypted", _changed(packed({"ct.nii": ct}), _FLAGS, "<H", 1), "unsafe_archive"
    strong = _changed(packed({"ct.nii": ct}), _FLAGS, "<H", 0x41)
    yield "strongly encrypted", strong, "unsafe_archive"
    patched = _changed(packed({"ct.nii": ct}), _FLAGS, "<H", 0x20)
    yield "patch data", patched, "truncated_file"
    for method, name in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")):
        yield f"packed with {name}", packed({"ct.nii": ct}, method), "unsupported_format"
    for method in (1, 9, 98, 99, 65535):
        data = _changed(packed({"ct.nii": ct}), _METHOD, "<H", method)
        yield f"packed with method {method}", data, "unsupported_format"
    stored = packed({"ct.nii": ct}, zipfile.ZIP_STORED)
    yield "stored", stored, SOUND
    yield "stored, said to be deflated", _changed(stored, _METHOD, "<H", 8), "truncated_file"
    yield "of a later version", _changed(stored, _VERSION, "<H", 255), "truncated_file"


def _broken() -> Iterator[Forged]:
    whole = packed({"ct.nii": _nifti()})
    for length in (4, 30, 100, len(whole) // 2, whole.index(_ENTRY), len(whole) - 1):
        yield f"cut to {length} bytes", whole[:length], "truncated_file"
    yield "a directory's end alone", whole[whole.index(_END) :], "truncated_file"
    yield "a checksum that is wrong", _changed(whole, _CRC, "<L", 1), "truncated_file"
    yield "data that is wrong", whole[:60] + bytes(40) + whole[100:], "truncated_file"
    yield "a directory that is elsewhere", whole[:-6] + b"\xff" * 4 + whole[-2:], "truncated_file"
    yield "noise before it", b"noise" * 99 + whole, "unsupported_format"
    yield "noise behind it", whole + bytes(70_000), "truncated_file"
    yield "a comment behind it", whole[:-2] + b"\5\0hello", SOUND
    bad = whole.replace(b"ct.nii", b"\xff\xfe.nii")
    yield "a name that is no UTF-8", _changed(bad, _FLAGS, "<H", 0x800), "truncated_file"
    yield "zip64 fields that are cut", _zip64(b"\1\0\x04\0\0\0\0\0"), "truncated_file"


def _zip64(extra: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        info = zipfile.ZipInfo("ct.nii", _EPOCH)
        info.extra = b"\x99\x99" + extra[2:]
        archive.writestr(info, _nifti())
    raw = bytearray(held.getvalue())
    entry = raw.index(_ENTRY)
    struct.pack_into("<L", raw, entry + _SIZE, 0xFFFFFFFF)
    struct.pack_into("<2s", raw, entry + 46 + len("ct.nii"), extra[:2])
    return bytes(raw)


def _lies() -> Iterator[Forged]:
    """A directory that does not say what is there."""
    ct = _nifti()
    whole = packed({"ct.nii": ct})
    yield "less than is there", _changed(whole, _SIZE, "<L", 100), "truncated_file"
    yield "more than is there", _changed(whole, _SIZE, "<L", len(ct) + 1), SOUND
    yield "nothing, said of a CT", _changed(whole, _SIZE, "<L", 0), "truncated_file"
    yield "4 GB said of a CT", _changed(whole, _SIZE, "<L", 2**32 - 2), "input_too_large"
    yield "packed bytes beyond the end", _changed(whole, _PACKED, "<L", 2**31), "unsafe_archive"
    yield "no packed bytes", _changed(whole, _PACKED, "<L", 0), "truncated_file"
    yield "a place beyond the end", _changed(whole, _PLACE, "<L", 2**31), "truncated_file"
    yield "another place", _changed(whole, _PLACE, "<L", 1), "truncated_file"
    hidden = packed({"ct.nii": ct, "a": b"1"})
    hidden = hidden.replace(b"ct.nii", b"xx.nii", 1)
    yield "other names than the files have", hidden, "truncated_file"
    count = bytearray(packed({"ct.nii": ct}))
    struct.pack_into("<HH", count, count.index(_END) + 8, 65535, 65535)
    yield "65,535 files said of one", bytes(count), SOUND


def _bombs() -> Iterator[Forged]:
    zeros = {"ct.nii": bytes(8 * MIB)}
    yield "a bomb", lambda: packed(zeros), "unsafe_archive"
    yield "a bomb in a bomb", lambda: packed({"a.zip": packed(zeros)}), "unsupported_format"
    yield (
        "a bomb said to be small",
        lambda: _changed(packed(zeros), _SIZE, "<L", 1000),
        ("truncated_file"),
    )
    # Each is dense enough to pass by itself.
    small = {f"{i}": bytes(MIB) for i in range(65)}
    yield "65 bombs of 1 MiB", lambda: packed(small), "input_too_large"
    yield "overlapping members", _overlapping, "unsafe_archive"


def _overlapping() -> bytes:
    """Forty members that are one and the same place (Fifield, WOOT 2019, section 2)."""
    whole = packed({"ct": bytes(MIB)})
    start = whole.index(_ENTRY)
    entry = whole[start : whole.index(_END)]
    end = struct.pack("<4s4H2LH", _END, 0, 0, 40, 40, 40 * len(entry), start, 0)
    return whole[:start] + entry * 40 + end


def _many() -> Iterator[Forged]:
    yield "100,000 files", lambda: _claiming(100_000), "input_too_large"
    yield "300,000 files", lambda: _claiming(300_000), "input_too_large"
    yield "one file too many", lambda: _claiming(LIMITS.max_files + 1), "input_too_large"
    yield "2000 empty files", lambda: packed({f"{i}": b"" for i in range(2000)}), "empty_input"
    yield (
        "1000 text files",
        lambda: packed({f"{i}": b"text" * 100 for i in range(1000)}),
        ("unsupported_format"),
    )
    ct = _nifti()
    yield (
        "a CT among 1000 text files",
        lambda: packed({f"{i}": b"text" * 100 for i in range(1000)} | {"ct.nii": ct}),
        SOUND,
    )


def _claiming(files: int) -> bytes:
    """A directory of many files, all of nothing."""
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"x"
    said = struct.pack("<4s6H3L5H2L", _ENTRY, 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    directory = (said + b"x") * files
    count = min(files, 65535)
    end = struct.pack("<4s4H2LH", _END, 0, 0, count, count, len(directory), len(head), 0)
    return head + directory + end


def _contents() -> Iterator[Forged]:
    """Sound archives of what is no CT, or of one among other things."""
    ct = _nifti()
    packer = zlib.compressobj(9, wbits=31)
    gz = packer.compress(ct) + packer.flush()
    inner = packed({"ct.nii": ct})
    yield "of nothing", packed({}), "empty_input"
    yield "folders alone", packed({"a/": b"", "a/b/": b""}), "empty_input"
    yield (
        "what macOS drops alone",
        packed({"__MACOSX/._ct": b"x", ".DS_Store": b"x"}),
        "empty_input",
    )
    yield "a folder that holds bytes", packed({"a/": ct}), "empty_input"
    yield "a .nii.gz", packed({"ct.nii.gz": gz}), SOUND
    yield "a zip in it", packed({"a.zip": inner}), "unsupported_format"
    yield (
        "a zip five deep",
        packed({"a": packed({"a": packed({"a": packed({"a": inner})})})}),
        ("unsupported_format"),
    )
    yield "a CT and a zip", packed({"ct.nii": ct, "a.zip": inner}), SOUND
    yield "two NIfTI files", packed({"1.nii": ct, "2.nii": ct + b"x"}), "unsupported_format"
    yield "a NIfTI file and text", packed({"1.nii": ct, "readme": b"text" * 99}), SOUND
    slices = {f"{i}.dcm": data for i, data in enumerate(series_files())}
    yield "a series", packed(slices), SERIES
    yield "a series and a NIfTI file", packed(slices | {"ct.nii": ct}), SERIES
    yield "a series and a bomb", packed(slices | {"b": bytes(4 * MIB)}), "unsafe_archive"
    yield (
        "a series in an encrypted archive",
        _changed(packed(slices), _FLAGS, "<H", 1),
        ("unsafe_archive"),
    )
    yield (
        "a series twice",
        packed(slices | {f"a/{n}": d for n, d in slices.items()}),
        ("duplicate_slices"),
    )
    yield (
        "a series without its third slice",
        packed({n: d for n, d in slices.items() if n != "2.dcm"}),
        "missing_slices",
    )
