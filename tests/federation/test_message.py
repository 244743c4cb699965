"""Messages: the same bytes for the same content, and every damage refused by its name."""

from __future__ import annotations

import json
import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from federation.message import DTYPES, LARGEST, pack, unpack
from imaging.errors import MessageRefused

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half of a surrogate pair is no text.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
HEADERS = st.dictionaries(st.text(max_size=8), VALUES, max_size=4)
ARRAYS = st.dictionaries(
    st.text(max_size=8),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays(dtype, st.just(()) | array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    max_size=4,
)
SMALL = pack({"round": 3}, {"a": np.arange(6, dtype=np.float32).reshape(2, 3)})


def raw(head: bytes, rest: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """A message with a right checksum and whatever head one likes."""
    body = head + rest
    size = len(head) if length is None else length
    return struct.pack("<6sHII", b"islet\0", version, size, zlib.crc32(body)) + body


def claim(arrays_: Any, header: Any = None, rest: bytes = b"") -> bytes:
    """A message in canonical form whose head claims such arrays."""
    text = json.dumps(
        {"arrays": arrays_, "header": {} if header is None else header},
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    return raw(text + b" " * (-len(text) % 8), rest)


@given(HEADERS, ARRAYS)
def test_round_trip(header: dict[str, Any], named: dict[str, Any]) -> None:
    found, back = unpack(pack(header, named))
    assert found == header
    assert back.keys() == named.keys()
    for name, array in named.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()  # NaN too


def test_the_layout_by_hand() -> None:
    head = b'{"arrays":[["b","int8",[3]]],"header":{"n":1}}'
    head += b" " * (48 - len(head))
    expected = raw(head, b"\x01\x02\xff" + b"\0" * 5)
    assert pack({"n": 1}, {"b": np.array([1, 2, -1], np.int8)}) == expected


def test_the_order_of_names_and_the_memory_of_arrays_change_nothing() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    b = np.array(7, np.int64)
    turned = np.asarray(a, order="F").astype(">f4")
    assert pack({"x": 1, "y": 2}, {"a": a, "b": b}) == pack({"y": 2, "x": 1}, {"b": b, "a": turned})


def test_reading_copies_nothing() -> None:
    body = pack({}, {"a": np.ones((1000, 10), np.float32)})
    array = unpack(body)[1]["a"]
    assert not array.flags.writeable
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert array.flags.aligned


@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_every_flipped_byte_is_found(place: int, mask: int) -> None:
    body = bytearray(SMALL)
    body[place] ^= mask
    with pytest.raises(MessageRefused):
        unpack(bytes(body))


@pytest.mark.parametrize("length", range(len(SMALL)))
def test_every_cut_is_found(length: int) -> None:
    with pytest.raises(MessageRefused):
        unpack(SMALL[:length])


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_garbage_under_a_right_checksum_is_refused(head: bytes, rest: bytes) -> None:
    with pytest.raises(MessageRefused):
        unpack(raw(head, rest))


@given(st.integers(0, 60), st.integers(1, 255))
def test_a_changed_head_under_a_right_checksum_is_read_or_refused(place: int, mask: int) -> None:
    body = bytearray(SMALL[16:])
    body[place % len(body)] ^= mask
    end = struct.unpack_from("<I", SMALL, 8)[0]
    changed = raw(bytes(body[:end]), bytes(body[end:]))
    try:
        header, named = unpack(changed)
    except MessageRefused:
        return
    assert pack(header, named) == changed


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "0 bytes"),
        (b"\x80\x04" + SMALL, "begins with"),
        (raw(b"{}      ", version=2), "version 2"),
        (raw(b"{}      ", length=9), "claims a head of 9"),
        (raw(b"[1,2,3] "), "not one list"),
        (raw(b'{"arrays":[],"header":{},"x":1} '), "not one list"),
        (raw(b'{"arrays":[], "header":{}}      '), "one way"),
        (raw(b'{"arrays":[],"header":{"a":1,"a":2}}    '), "one way"),
        (raw(b'{"arrays":[],"header":{"a":NaN}}'), "Out of range"),
        (raw(b'{"arrays":[],"header":{"a":1e999}}      '), "Out of range"),
        (raw(b"[" * 100_000), "no plain JSON"),
        (raw(b"\xff" * 8), "no plain JSON"),
        (claim(["a"]), "not a"),
        (claim([["a", "object", [1]]], rest=b"\0" * 8), "'object'"),
        (claim([["a", "float64", [1]]], rest=b"\0" * 8), "'float64'"),
        (claim([["a", ["int8"], [1]]], rest=b"\0" * 8), "int8"),
        (claim([[1, "int8", [1]]], rest=b"\0" * 8), "'1'"),
        (claim([["a", "int8", [-1]]]), r"\[-1\]"),
        (claim([["a", "int8", [True]]], rest=b"\0" * 8), "True"),
        (claim([["a", "int8", [1.0]]], rest=b"\0" * 8), "1.0"),
        (claim([["a", "int8", [1] * 9]], rest=b"\0" * 8), "shape"),
        (claim([["a", "int8", [2**31]]]), str(2**31)),
        (claim([["a", "int8", [0, 2**31]]]), str(2**31)),
        (claim([["a", "int64", [10**30]]]), "shape"),
        (claim([["a", "float32", [2**30]]]), f"ends at byte {2**32 + 72}"),
        (claim([["a", "int8", [8]]] * 2, rest=b"\0" * 16), "not repeat: 'a'"),
        (claim([["b", "int8", [1]], ["a", "int8", [1]]], rest=b"\0" * 16), "rise"),
        (claim([["a", "int8", [8]]], rest=b"\0" * 16), "8 bytes follow"),
        (claim([["a", "int8", [3]]], rest=b"\0" * 7 + b"\1"), "not zero"),
        (claim([], header=[]), "not one list"),
    ],
)
def test_refusals_say_what_is_wrong(body: bytes, says: str) -> None:
    with pytest.raises(MessageRefused, match=says):
        unpack(body)


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", {1, 2}, np.float32(1)])
def test_a_header_that_is_no_json_is_not_sent(value: Any) -> None:
    with pytest.raises(MessageRefused, match="no plain JSON"):
        pack({"a": value}, {})


def test_a_dtype_that_does_not_travel_is_not_sent() -> None:
    with pytest.raises(MessageRefused, match="'weights' has dtype 'float64'"):
        pack({}, {"weights": np.ones(3)})


def test_a_message_over_two_gigabytes_is_not_sent() -> None:
    # A view of one byte: nothing of that size is allocated.
    large = np.broadcast_to(np.zeros((), np.int8), (LARGEST,))
    with pytest.raises(MessageRefused, match=str(LARGEST + 1)):
        pack({}, {"a": large})
