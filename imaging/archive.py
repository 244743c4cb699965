"""Zip archives in: unpacked within limits, under names of our own, or refused whole."""

from __future__ import annotations

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from imaging.errors import (
    EmptyInput,
    InputTooLarge,
    TruncatedFile,
    UnsafeArchive,
    UnsupportedFormat,
)
from imaging.limits import DEFAULT_LIMITS, MIB, Limits

# The first is a file's header, the second the end of an archive without files.
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")

_ENCRYPTED = 0x1
_CHUNK = MIB
# Of the archive's directory, for each file there may be: an entry is 46 bytes and a name.
_ENTRY_BYTES = 1024
# What zipfile raises on bytes that are not what they promise, NotImplementedError included.
_BROKEN = (
    BadZipFile,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)


def is_zip(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a zip archive."""
    return head[:4] in ZIP_MAGICS


def unpack(path: Path, into: Path, limits: Limits = DEFAULT_LIMITS) -> list[Path]:
    """Unpack an archive's files as ``into/000001.bin``, ``into/000002.bin``, ...

    No name from the archive reaches the disk. Folders and the droppings of macOS are skipped;
    archives in the archive stay packed. The sizes that the directory announces are checked first
    and hold while writing; on failure nothing is left in ``into``.

    Args:
        path: a zip or zip64 file.
        into: a folder for the files; made if it is not there.
        limits: upper bounds on bytes, files and ratio.

    Returns:
        The files, in the order of the archive.

    Raises:
        EmptyInput: no files in it.
        InputTooLarge: over a limit, packed or unpacked.
        UnsafeArchive: encrypted, links, names that lead elsewhere, files that share their bytes, or
            a ratio no CT has.
        UnsupportedFormat: a compression other than deflate.
        TruncatedFile: broken off, or a checksum that does not agree.
    """
    size = path.stat().st_size
    if size == 0:
        raise EmptyInput("The archive has 0 bytes; send it again.")
    if size > limits.max_bytes:
        raise _too_large("bytes", size, limits.max_bytes)
    with _Bounded(path, limits) as file:
        with _whole():
            archive = ZipFile(file)
            members = [m for m in archive.infolist() if not m.is_dir() and not _is_dropping(m)]
        _check(members, size, limits)
        return _write(archive, members, into, limits)


class _Bounded(io.FileIO):
    """An archive's file. ``ZipFile`` reads its directory at once, and makes much more of it."""

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(path)
        self._most = max(_CHUNK, limits.max_files * _ENTRY_BYTES)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._most:
            raise _too_large("bytes in its directory", size, self._most)
        return super().read(-1 if size is None else size)


@contextmanager
def _whole() -> Iterator[None]:
    """Turn what reading a broken archive raises into :class:`TruncatedFile`."""
    try:
        yield
    except _BROKEN as error:
        raise TruncatedFile(
            f"The archive ends too early or is damaged ({type(error).__name__}); pack and send it "
            "again."
        ) from error


def _is_dropping(member: ZipInfo) -> bool:
    parts = PurePosixPath(member.filename).parts
    return "__MACOSX" in parts or parts[-1:] == (".DS_Store",)


def _check(members: list[ZipInfo], size: int, limits: Limits) -> None:
    if not members:
        raise EmptyInput("The archive holds no files; pack the files of one CT series.")
    if len(members) > limits.max_files:
        raise _too_large("files", len(members), limits.max_files)
    total = sum(member.file_size for member in members)
    if total > limits.max_unpacked_bytes:
        raise _too_large("unpacked bytes", total, limits.max_unpacked_bytes)
    packed = sum(member.compress_size for member in members)
    if packed > size:
        raise UnsafeArchive(
            f"The archive's files take {packed} bytes of its {size}, so some share them; pack the "
            "plain files of one series.",
            packed=packed,
            bytes=size,
        )
    for number, member in enumerate(members, 1):
        fault = _fault(member, limits)
        if fault:
            # By its number, as its name may hold a patient's.
            raise UnsafeArchive(
                f"File {number} of {len(members)} in the archive {fault}; pack the plain files of "
                "one series.",
                member=number,
                fault=fault,
            )
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise UnsupportedFormat(
                f"File {number} in the archive is packed with method {member.compress_type}; pack "
                "with deflate or without compression.",
                member=number,
                method=member.compress_type,
            )


def _too_large(what: str, value: int, limit: int) -> InputTooLarge:
    return InputTooLarge(
        f"The archive has {value} {what}, over the limit of {limit}; send one series.",
        what=what,
        value=value,
        limit=limit,
    )


def _fault(member: ZipInfo, limits: Limits) -> str | None:
    """What is unsafe about a member, or None."""
    mode = member.external_attr >> 16
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    # A mode of 0 says nothing of the file's kind: archives made on Windows have it.
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a link or a device"
    if _escapes(member.filename):
        return "has a name that leads out of the archive"
    ratio = member.file_size / max(member.compress_size, 1)
    if member.file_size > MIB and ratio > limits.max_ratio:
        return f"unpacks to {ratio:.0f} times its size (at most {limits.max_ratio:g})"
    return None


def _escapes(name: str) -> bool:
    windows = PureWindowsPath(name)
    return bool(windows.anchor) or name.startswith("/") or ".." in windows.parts


def _write(archive: ZipFile, members: list[ZipInfo], into: Path, limits: Limits) -> list[Path]:
    made = not into.exists()
    into.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    left = limits.max_unpacked_bytes
    try:
        for number, member in enumerate(members, 1):
            files.append(into / f"{number:06d}.bin")
            with files[-1].open("xb") as target:
                for chunk in _chunks(archive, member):
                    left -= len(chunk)
                    if left < 0:
                        raise _too_large(
                            "unpacked bytes",
                            limits.max_unpacked_bytes - left,
                            limits.max_unpacked_bytes,
                        )
                    target.write(chunk)
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        if made:
            into.rmdir()
        raise
    return files


def _chunks(archive: ZipFile, member: ZipInfo) -> Iterator[bytes]:
    with _whole(), archive.open(member) as source:
        while chunk := source.read(_CHUNK):
            yield chunk
