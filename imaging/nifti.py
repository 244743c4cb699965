"""NIfTI in: .nii and .nii.gz, versions 1 and 2; every lie a header can tell is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, Protocol

import nibabel as nib
import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from imaging.errors import (
    BadGeometry,
    BadShape,
    BadVoxels,
    InputTooLarge,
    TruncatedFile,
    UnsafeArchive,
    UnsupportedFormat,
)
from imaging.geometry import Float, Geometry
from imaging.limits import DEFAULT_LIMITS, Limits
from imaging.volume import Volume

GZIP_MAGIC = b"\x1f\x8b"
AIR_HU = -1024

# RAS millimetres with (i, j, k) columns -> LPS millimetres with (k, j, i) columns.
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_REVERSE_COLUMNS = [2, 1, 0, 3]
# The header's code for its unit of length, where it is not millimetres.
_TO_MM = {1: 1000.0, 3: 0.001}
# Sizes of the pieces in which files are unpacked; larger ones fall out of the processor's cache.
# What is left of a packed piece is copied at the end of each member.
_PACKED_PIECE, _PIECE = 2**14, 2**19
# Each member costs time, an empty one too. Blocks of 64 KiB, as bgzip packs, make 8 GiB of so many.
_MOST_MEMBERS = 2**17
# Deflate's code for the longest repetition says 258 bytes in 2 bits (RFC 1951, 3.2.5).
_DENSEST = 1032
# How much is unpacked behind the voxels to come to their checksum; a bomb costs no more.
_LEFTOVER = 2**24
# The largest axis of a NIfTI-1 file, which the masks are written as.
_MAX_AXIS = 32767


def is_nifti(head: bytes) -> bool:
    """Whether a file that begins (once un-gzipped) with ``head`` is a single-file NIfTI."""
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def read_nifti(path: Path, limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Read a CT from a NIfTI file.

    A 4D file with one frame is a volume. Where sform and qform are both set and disagree, the
    sform is taken (the qform if only it is a grid), with a warning; a direction that is not
    orthonormal is corrected with a warning. No more bytes are kept than the header's dimensions
    call for, and few more are unpacked, so a gzip bomb costs nothing.

    Args:
        path: .nii or .nii.gz; content decides.
        limits: upper bounds on voxels and bytes.

    Returns:
        int16 where integers are stored with an integral scale, else float32.

    Raises:
        UnsupportedFormat, TruncatedFile, InputTooLarge, UnsafeArchive, BadShape, BadGeometry,
        BadVoxels.
    """
    with path.open("rb") as stored:
        packed = stored.read(2) == GZIP_MAGIC
        stored.seek(0)
        file = _Gunzip(stored) if packed else stored
        header = _read_header(file)
        shape = _volume_shape(header, limits)
        room = path.stat().st_size * (_DENSEST if packed else 1)
        raw = _read_voxels(file, header, shape, limits, room)
    # Absurd scales and affines overflow to infinity, which is then refused by name.
    with np.errstate(over="ignore", invalid="ignore"):
        array, notes = _to_hu(raw, header)
        geometry, warnings = _geometry(header, shape)
    return Volume(array, geometry, (*notes, *warnings))


class _Source(Protocol):
    def readinto(self, buffer: memoryview, /) -> int: ...


class _Gunzip:
    """What a gzip file holds: its members one after the other, whatever follows them ignored."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._packed = b""
        self._members = 1
        self._member = isal_zlib.decompressobj(wbits=31)

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer and return its length, less where the content ends earlier."""
        filled = 0
        while filled < len(buffer) and (piece := self._piece(min(len(buffer) - filled, _PIECE))):
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def check_end(self) -> None:
        """Come to the checksum of what was read, unless too much follows it."""
        left = _LEFTOVER
        while left > 0 and not self._member.eof:
            left -= len(self._piece(_PIECE))

    def _next_member(self) -> None:
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise UnsafeArchive(
                f"The gzip file has over {_MOST_MEMBERS} members, as no CT has; pack it as one.",
                members=self._members,
            )
        self._member = isal_zlib.decompressobj(wbits=31)

    def _piece(self, most: int) -> bytes:
        """The next bytes, at most ``most`` of them; none at the end."""
        while True:
            if self._member.eof:
                self._packed = self._member.unused_data
                if len(self._packed) < len(GZIP_MAGIC):
                    self._packed += self._file.read(_PACKED_PIECE)
                if not self._packed.startswith(GZIP_MAGIC):
                    return b""
                self._next_member()
            self._packed = self._packed or self._file.read(_PACKED_PIECE)
            if not self._packed:
                raise TruncatedFile("The file ends inside its compressed data; send it again.")
            try:
                piece = self._member.decompress(self._packed, most)
            except IsalError as error:  # type: ignore[misc]  # isal's stub has it as Any
                raise TruncatedFile(
                    f"The file does not unpack ({error}); send it again."
                ) from error
            self._packed = self._member.unconsumed_tail
            if piece:
                return piece


def _read_exactly(file: _Source, count: int, what: str) -> NDArray[np.uint8]:
    data = np.empty(count, np.uint8)
    found = file.readinto(data.data)
    if found < count:
        raise TruncatedFile(
            f"The file ends after {found} of the {count} bytes of its {what}; send it again.",
            expected_bytes=count,
            found_bytes=found,
        )
    return data


def _read_header(file: _Source) -> Any:
    head = _read_exactly(file, 348, "header").tobytes()
    two = head[4:8] == b"n+2\0"
    if two:
        head += _read_exactly(file, 540 - 348, "header").tobytes()
    if not is_nifti(head):
        raise UnsupportedFormat(
            "This is no single-file NIfTI (magic n+1 or n+2); convert it to .nii or .nii.gz."
        )
    kind = nib.Nifti2Header if two else nib.Nifti1Header
    try:
        header = kind(head, check=False)
        # The standard's own reading of signs that it does not allow.
        header["pixdim"][0] = -1 if header["pixdim"][0] == -1 else 1
        header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
        header.get_data_dtype()
        header.get_data_shape()
        header.get_slope_inter()
    except (HeaderDataError, ValueError, KeyError, TypeError) as error:
        raise UnsupportedFormat(f"The NIfTI header does not parse ({error}); repair it.") from error
    return header


def _volume_shape(header: Any, limits: Limits) -> tuple[int, int, int]:
    """(Z, Y, X) of the one frame, checked against what memory may hold."""
    stored = [int(n) for n in header.get_data_shape()]
    if len(stored) < 3 or any(n != 1 for n in stored[3:]) or min(stored[:3], default=0) < 2:
        size = " x ".join(map(str, stored)) or "of no size"
        raise BadShape(
            f"The file is {size}; send one 3D frame of at least 2 x 2 x 2 voxels.",
            shape=stored,
        )
    voxels = stored[0] * stored[1] * stored[2]
    if voxels > limits.max_voxels or max(stored) > _MAX_AXIS:
        raise InputTooLarge(
            f"The volume has {voxels} voxels ({' x '.join(map(str, stored))}); at most "
            f"{limits.max_voxels}, and {_MAX_AXIS} along an axis, are taken. Crop it.",
            voxels=voxels,
            limit=limits.max_voxels,
        )
    return stored[2], stored[1], stored[0]


def _read_voxels(
    file: _Source, header: Any, shape: tuple[int, int, int], limits: Limits, room: int
) -> NDArray[Any]:
    """The stored values (Z, Y, X) of a file that cannot hold more than ``room`` bytes."""
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnsupportedFormat(
            f"Voxels of type {dtype} are no Hounsfield units; store int16 or float32."
        )
    count = int(np.prod(shape)) * dtype.itemsize
    if count > limits.max_unpacked_bytes:
        raise InputTooLarge(
            f"The voxels take {count} bytes; at most {limits.max_unpacked_bytes} are unpacked. "
            "Store them as int16.",
            bytes=count,
            limit=limits.max_unpacked_bytes,
        )
    if count > room:
        raise TruncatedFile(
            f"The file holds at most {room} of the {count} bytes of its voxels; send it again.",
            expected_bytes=count,
            found_bytes=room,
        )
    # The true length of the header: its own field for it may say anything.
    length = len(header.binaryblock)
    skip = (float(header["vox_offset"]) or length + 4) - length
    # NaN fails the comparison too.
    if not 0 <= skip <= 2**24:
        raise UnsupportedFormat(
            f"vox_offset {header['vox_offset']} is no place for the voxels; repair the header."
        )
    _read_exactly(file, int(skip), "header extensions")
    data = _read_exactly(file, count, "voxels")
    if isinstance(file, _Gunzip):
        file.check_end()
    array: NDArray[Any] = data.view(dtype).reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _to_hu(raw: NDArray[Any], header: Any) -> tuple[NDArray[Any], tuple[str, ...]]:
    slope, inter = header.get_slope_inter()
    scaled = slope is not None and (slope, inter) != (1.0, 0.0)
    if raw.dtype.kind in "iu" and not scaled:
        return _as_int16(raw), ()
    values = raw.astype(np.float32)
    if scaled:
        values *= np.float32(slope)
        values += np.float32(inter)
    finite = np.isfinite(values)
    bad = values.size - int(np.count_nonzero(finite))
    if bad == values.size:
        raise BadVoxels("No voxel holds a finite value; send the CT in Hounsfield units.")
    notes: tuple[str, ...] = ()
    if bad:
        values[~finite] = AIR_HU
        notes = (f"{bad} voxels were not finite and were read as air ({AIR_HU} HU).",)
    if raw.dtype.kind in "iu" and float(slope).is_integer() and float(inter).is_integer():
        return _as_int16(values), notes
    return values, notes


def _as_int16(values: NDArray[Any]) -> NDArray[Any]:
    """Integers as int16; what lies beyond its range is no tissue and is clipped to it."""
    if values.dtype == np.int16:
        return values
    if values.dtype.itemsize > 1:
        info = np.iinfo(np.int16)
        values = np.clip(values, info.min, info.max)
    return values.astype(np.int16)


def _geometry(header: Any, shape: tuple[int, int, int]) -> tuple[Geometry, tuple[str, ...]]:
    """The grid by sform, else qform, else the header's spacing alone."""
    failures = []
    chosen: list[tuple[str, Geometry, tuple[str, ...]]] = []
    for name, affine in _affines(header):
        try:
            chosen.append((name, *Geometry.from_affine(shape, affine)))
        except BadGeometry as error:
            failures.append((name, error))
    if not chosen:
        raise failures[0][1]
    name, geometry, warnings = chosen[0]
    if failures:
        warnings += (f"The {failures[0][0]} is no grid and was ignored; the {name} was used.",)
    if len(chosen) > 1:
        apart = float(np.abs(geometry.corners() - chosen[1][1].corners()).max())
        if apart > 0.1 * min(geometry.spacing):
            warnings += (f"sform and qform disagree by up to {apart:.2f} mm; the {name} was used.",)
    if name == "spacing":
        warnings += (
            "The header has no orientation; the usual axial one (first axis to the left, second to "
            "the front, third to the head) was assumed.",
        )
    return geometry, warnings


def _affines(header: Any) -> list[tuple[str, Float]]:
    """What the header offers, best first, as affines of (z, y, x) indices to LPS mm."""
    scale = np.diag([_TO_MM.get(int(header["xyzt_units"]) & 7, 1.0)] * 3 + [1.0])
    found: list[tuple[str, Float]] = []
    if int(header["sform_code"]) > 0:
        found.append(("sform", header.get_sform()))
    if int(header["qform_code"]) > 0:
        found.append(("qform", _qform(header)))
    if not found:
        found.append(("spacing", header.get_base_affine()))
    return [(name, (_RAS_TO_LPS @ scale @ a)[:, _REVERSE_COLUMNS]) for name, a in found]


def _qform(header: Any) -> Float:
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        return np.full((4, 4), np.nan)
