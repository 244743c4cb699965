"""What travels between a server and a site: a header of plain values and named arrays.

A message is, without gaps::

    bytes   0-5    b"islet" and a zero
            6-7    version of this layout
            8-11   length of the head
           12-15   CRC-32 of the head and all that follows
           16-     the head, canonical JSON: {"arrays": [[name, dtype, shape], ...], "header": {}},
                   filled with blanks to a multiple of 8 bytes
                   the arrays in the order of their names, each filled with zeros likewise

All integers are little-endian and so are the arrays. The same header and arrays always give the
same bytes. Nothing in a message is ever executed, and nothing is allocated for what a head only
claims: the sizes must first add up to the bytes that are there.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import MessageRefused

VERSION = 1
LARGEST = 2**31 - 1
"""Bytes of a message, and elements of an array: gRPC carries no more in one piece."""
DTYPES = ("float16", "float32", "int64", "int8", "uint8")
_MAGIC = b"islet\0"
_FIXED = struct.Struct("<6sHII")
_ALIGNMENT = 8
_LARGEST_HEAD = 2**22
_MOST_AXES = 8


def pack(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """One message.

    Args:
        header: plain JSON values under words; no NaN and no infinity.
        arrays: of any shape, with a dtype of :data:`DTYPES`.

    Raises:
        MessageRefused: a header that is no JSON, a dtype that does not travel, or over 2 GiB.
    """
    table = [[name, arrays[name].dtype.name, list(arrays[name].shape)] for name in sorted(arrays)]
    for entry in table:
        _entry(entry)
    try:
        head = _canonical({"arrays": table, "header": dict(header)})
    except (TypeError, ValueError) as error:
        raise MessageRefused(f"The header is no plain JSON ({error}).") from error
    size = sum(_padded(array.nbytes) for array in arrays.values())
    if len(head) > _LARGEST_HEAD or _FIXED.size + len(head) + size > LARGEST:
        raise MessageRefused(
            f"A head of {len(head)} bytes and arrays of {size} are too large for one message."
        )
    rest = b"".join([head, *(_raw(arrays[name]) for name in sorted(arrays))])
    return _FIXED.pack(_MAGIC, VERSION, len(head), zlib.crc32(rest)) + rest


def unpack(body: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The header and the arrays of a message.

    Returns:
        The arrays are read-only views into ``body``; nothing is copied.

    Raises:
        MessageRefused: damaged, of another version, or no message; says what is wrong.
    """
    head, start = _head(body)
    places: list[tuple[str, str, tuple[int, ...], int]] = []
    for entry in head["arrays"]:
        name, dtype, shape = _entry(entry)
        if places and name <= places[-1][0]:
            raise MessageRefused(
                f"Array names must rise and not repeat: {name[:80]!r} follows "
                f"{places[-1][0][:80]!r}."
            )
        places.append((name, dtype, shape, start))
        end = start + math.prod(shape) * np.dtype(dtype).itemsize
        start += _padded(end - start)
        if start > len(body):
            raise MessageRefused(
                f"The array {name[:80]!r} ends at byte {end}; the message ends at {len(body)}."
            )
        if any(body[end:start]):
            raise MessageRefused(f"What follows the array {name[:80]!r} is not zero.")
    if start != len(body):
        raise MessageRefused(f"{len(body) - start} bytes follow the last array.")
    return head["header"], {
        name: np.ndarray(shape, np.dtype(dtype).newbyteorder("<"), buffer=body, offset=offset)
        for name, dtype, shape, offset in places
    }


def _head(body: bytes) -> tuple[dict[str, Any], int]:
    """The checked head and the byte where the arrays begin."""
    if len(body) < _FIXED.size or len(body) > LARGEST:
        raise MessageRefused(f"{len(body)} bytes are no message.")
    magic, version, length, checksum = _FIXED.unpack_from(body)
    if magic != _MAGIC:
        raise MessageRefused(f"This begins with {magic!r}; a message begins with {_MAGIC!r}.")
    if version != VERSION:
        raise MessageRefused(
            f"The message has version {version}, this Islet reads {VERSION}; run the same release "
            "on all sides."
        )
    end = _FIXED.size + length
    if end > len(body) or length > _LARGEST_HEAD:
        raise MessageRefused(f"The message of {len(body)} bytes claims a head of {length}.")
    if zlib.crc32(memoryview(body)[_FIXED.size :]) != checksum:
        raise MessageRefused("The checksum does not fit: bytes changed on the way; send it again.")
    return _parsed(body[_FIXED.size : end]), end


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        head = json.loads(raw)
        # A second way to write the same head (doubled keys, NaN, 1e999) is refused with the rest.
        canonical = _canonical(head) == raw
    except (ValueError, TypeError, RecursionError) as error:
        raise MessageRefused(f"The head is no plain JSON ({error}).") from error
    if not canonical:
        raise MessageRefused("The head is not written in the one way that Islet writes it.")
    if not (
        isinstance(head, dict)
        and head.keys() == {"arrays", "header"}
        and isinstance(head["arrays"], list)
        and isinstance(head["header"], dict)
    ):
        raise MessageRefused("The head is not one list of arrays and one header.")
    return head


def _entry(entry: Any) -> tuple[str, str, tuple[int, ...]]:
    """Name, dtype and shape of an array, as the head claims them."""
    if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], list)):
        raise MessageRefused(f"An array is a name, a dtype and a shape, not {str(entry)[:80]}.")
    name, dtype, shape = entry
    if not isinstance(name, str) or dtype not in DTYPES:
        raise MessageRefused(
            f"The array {str(name)[:80]!r} has dtype {str(dtype)[:40]!r}; what travels is "
            f"{', '.join(DTYPES)}."
        )
    if (
        len(shape) > _MOST_AXES
        or not all(type(size) is int and size >= 0 for size in shape)
        or math.prod(max(size, 1) for size in shape) > LARGEST
    ):
        raise MessageRefused(f"The array {name[:80]!r} has the shape {str(shape)[:80]}.")
    return name, dtype, tuple(shape)


def _raw(array: NDArray[Any]) -> bytes:
    return _filled(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes("C"), b"\0")


def _canonical(head: object) -> bytes:
    text = json.dumps(head, sort_keys=True, allow_nan=False, separators=(",", ":"))
    # The fixed part is 16 bytes, so the arrays begin at a multiple of 8 too.
    return _filled(text.encode("ascii"), b" ")


def _filled(raw: bytes, filler: bytes) -> bytes:
    return raw.ljust(_padded(len(raw)), filler)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
