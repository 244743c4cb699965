"""NIfTI that breaks off, is packed wrongly or too well, or holds what is no number."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator

import nibabel as nib
import numpy as np

from benchmarks.trials.forged.case import SEED, Answer, Case, bytes_case
from benchmarks.trials.forged.nifti import FAMILY, SHAPE, SOUND, SPACING, whole_file
from imaging.limits import MIB
from tests.imaging.nifti_files import STORED, image, overwritten

Forged = tuple[str, bytes | Callable[[], bytes], str | Answer]


def cases() -> Iterator[Case]:
    """Of the bytes below the header."""
    for part in (_broken_off, _other_files, _gzip, _bombs, _extensions, _values):
        for name, data, expected in part():
            yield bytes_case(FAMILY, name, data, expected)


def _raw() -> bytes:
    return bytes(image().to_bytes())


def _zip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _bomb(head: bytes, mebibytes: int) -> bytes:
    """Bytes and then zeros, packed as one member without holding them."""
    deflate = zlib.compressobj(1, wbits=31)
    packed = [deflate.compress(head), *(deflate.compress(bytes(MIB)) for _ in range(mebibytes))]
    return b"".join([*packed, deflate.flush()])


def _broken_off() -> Iterator[Forged]:
    whole = _raw()
    yield "nothing", b"", "empty_input"
    # Without its magic it might be anything.
    for length in (1, 100, 347):
        yield f"{length} bytes", whole[:length], "unsupported_format"
    for length in (348, 352, 353, len(whole) // 2, len(whole) - 1):
        yield f"{length} bytes of {len(whole)}", whole[:length], "truncated_file"
    packed = _zip(whole)
    for length in (2, 10, 18, 100, len(packed) // 2, len(packed) - 8, len(packed) - 1):
        yield f"{length} packed bytes", packed[:length], "truncated_file"
    for name, garbage in (("zeros", bytes(100_000)), ("words", b"garbage " * 9000)):
        yield f"{name} behind the voxels", whole + garbage, SOUND
        yield f"{name} behind the gzip", packed + garbage, SOUND
        yield f"{name} packed behind the voxels", _zip(whole + garbage), SOUND


def _other_files() -> Iterator[Forged]:
    whole = _raw()
    noise = np.random.default_rng(SEED).bytes(4096)
    yield "zeros", bytes(4096), "unsupported_format"
    yield "noise", b"\xff" + noise, "unsupported_format"
    yield "text", b"patient,organ,volume\n" * 200, "unsupported_format"
    yield "Analyze 7.5", overwritten(magic=b"")[:348], "unsupported_format"
    yield "bzip2", bz2.compress(whole), "unsupported_format"
    yield "xz", lzma.compress(whole), "unsupported_format"
    yield "zlib", zlib.compress(whole), "unsupported_format"
    yield "a magic and noise", noise[:344] + b"n+1\0" + noise, "unsupported_format"
    yield (
        "a magic of version 2 and noise",
        b"\x1c\2\0\0n+2\0\r\n\x1a\n" + noise,
        "unsupported_format",
    )
    yield "packed noise", _zip(noise), "unsupported_format"
    yield "a picture", b"\x89PNG\r\n\x1a\n" + noise, "unsupported_format"
    yield "HTML", b"<!doctype html><title>502 Bad Gateway</title>" * 20, "unsupported_format"


def _gzip() -> Iterator[Forged]:
    whole, packed = _raw(), _zip(_raw())
    yield "gzip in gzip", _zip(packed), "unsupported_format"
    yield "gzip of nothing", _zip(b""), "truncated_file"
    yield "gzip of a header", _zip(whole[:352]), "truncated_file"
    yield "a wrong checksum", packed[:-8] + bytes(4) + packed[-4:], "truncated_file"
    yield "a wrong length", packed[:-4] + bytes(4), "truncated_file"
    yield "a bit flipped", packed[:60] + bytes([packed[60] ^ 4]) + packed[61:], "truncated_file"
    yield "an unknown method", packed[:2] + b"\7" + packed[3:], "truncated_file"
    yield "flags that do not exist", packed[:3] + b"\xe0" + packed[4:], SOUND
    named = packed[:3] + b"\x08" + packed[4:10] + b"Doe^Jane.nii\0" + packed[10:]
    yield "a name in the gzip", named, SOUND
    yield "a name without end", packed[:3] + b"\x08" + packed[4:10] + b"x" * 9999, "truncated_file"
    pieces = [_zip(whole[i : i + 100]) for i in range(0, len(whole), 100)]
    yield "many members", b"".join(pieces), SOUND
    yield "members and empty ones", _zip(b"").join([b"", *pieces, b""]), SOUND
    yield "a member missing", b"".join(pieces[:5] + pieces[6:]), "truncated_file"


def _bombs() -> Iterator[Forged]:
    whole = _raw()
    large = overwritten(dim=[3, 1000, 1000, 4, 1, 1, 1, 1])[:352]
    # 14 MiB, each member of 20 bytes.
    yield "700,000 empty members", lambda: _zip(b"") * 700_000, "unsafe_archive"
    yield "10,000 empty members first", lambda: _zip(b"") * 10_000 + _zip(whole), SOUND
    yield (
        "10,000 members of a byte",
        lambda: _zip(whole[:352]) + _zip(b"\0") * 10_000,
        Answer(SHAPE, SPACING, (0.0, 0.0)),
    )
    yield "60 MiB behind the voxels", lambda: _bomb(whole, 60), SOUND
    yield (
        "voxels that pack 1000 times",
        lambda: _zip(large + bytes(8_000_000)),
        Answer((4, 1000, 1000), hu=(0.0, 0.0)),
    )
    too_wide = overwritten(dim=[3, 1000, 1000, 4, 1, 1, 1, 1], datatype=64)[:352]
    yield "more bytes than it can unpack to", _zip(too_wide + bytes(100)), "truncated_file"
    beyond = overwritten(dim=[3, 3000, 3000, 300, 1, 1, 1, 1])[:352]
    yield "a bomb over the limit", lambda: _bomb(beyond, 8), "input_too_large"


def _extensions() -> Iterator[Forged]:
    whole = _raw()
    for name, size in (("no", 0), ("a negative", -16), ("an endless", 2**31 - 1)):
        said = b"\1\0\0\0" + struct.pack("<ii", size, 6) + bytes(56)
        header = nib.Nifti1Header(whole[:348])
        header["vox_offset"] = 348 + len(said)
        data = header.binaryblock + said + whole[352:]
        yield f"an extension of {name} length", data, SOUND


def _values() -> Iterator[Forged]:
    grid = STORED.astype(np.float32)
    half, one = grid.copy(), grid.copy()
    half[:3], one[0, 0, 0] = np.nan, np.inf
    air = Answer(SHAPE, SPACING, says=("not finite",))
    yield "NaN in half the voxels", whole_file(half), air
    yield "an infinite voxel", whole_file(one), air
    yield "NaN in all voxels", whole_file(np.full_like(grid, np.nan)), "bad_voxels"
    yield "all voxels infinite", whole_file(np.full_like(grid, -np.inf)), "bad_voxels"
    yield "the smallest floats", whole_file(np.full_like(grid, 1e-45)), Answer(SHAPE, hu=(0.0, 0.0))
    yield "the largest floats", whole_file(np.full_like(grid, 3e38)), Answer(SHAPE, SPACING)
    yield "doubles beyond floats", whole_file(np.full(STORED.shape, 1e300)), "bad_voxels"
    most = np.full(STORED.shape, 2**64 - 1, np.uint64)
    yield "the largest integers", whole_file(most), Answer(SHAPE, hu=(32767.0, 32767.0))
