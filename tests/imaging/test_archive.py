"""Archives: unpacked under our own names, or refused with nothing left behind."""

from __future__ import annotations

import contextlib
import json
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imaging import errors
from imaging.archive import is_zip, unpack
from imaging.limits import DEFAULT_LIMITS, MIB, Limits

# Entry 3's contents are easy to find in the file, as they do not compress.
CONTENTS = {"Doe^Jane/1.dcm": b"one" * 400, "2.dcm": b"two" * 10, "3": bytes(range(256))}


def _pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _refused(
    error: type[errors.IsletError], archive: Path, *said: str, limits: Limits = DEFAULT_LIMITS
) -> None:
    into = archive.parent / "into"
    with pytest.raises(error) as caught:
        unpack(archive, into, limits)
    assert type(caught.value) is error
    for words in said:
        assert words in caught.value.message
    assert "Doe" not in json.dumps(caught.value.as_dict())
    assert not into.exists()


def test_files_come_out_under_numbers(tmp_path: Path) -> None:
    archive = _pack(tmp_path / "a.zip", CONTENTS)
    files = unpack(archive, tmp_path / "into")
    assert [f.name for f in files] == ["000001.bin", "000002.bin", "000003.bin"]
    assert [f.read_bytes() for f in files] == list(CONTENTS.values())
    assert sorted((tmp_path / "into").iterdir()) == files
    assert is_zip(archive.read_bytes()[:4])


def test_folders_and_droppings_are_skipped_and_nested_archives_stay(tmp_path: Path) -> None:
    inner = _pack(tmp_path / "inner.zip", CONTENTS).read_bytes()
    files = {"x/": b"", "x/.DS_Store": b"d", "__MACOSX/x/._a": b"m", "x/inner.zip": inner}
    out = unpack(_pack(tmp_path / "a.zip", files), tmp_path / "into")
    assert [f.read_bytes() for f in out] == [inner]


def test_zip64(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with (
        zipfile.ZipFile(path, "w") as archive,
        archive.open("big", "w", force_zip64=True) as member,
    ):
        member.write(b"x" * 1000)
    assert [f.read_bytes() for f in unpack(path, tmp_path / "into")] == [b"x" * 1000]


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.touch()
    _refused(errors.EmptyInput, path, "0 bytes")
    _refused(errors.EmptyInput, _pack(path, {}), "no files")
    _refused(errors.EmptyInput, _pack(path, {"x/": b"", ".DS_Store": b"d"}), "no files")


def test_limits(tmp_path: Path) -> None:
    path = _pack(tmp_path / "a.zip", CONTENTS)
    total, size = sum(map(len, CONTENTS.values())), path.stat().st_size
    _refused(errors.InputTooLarge, path, "3 files", "limit of 2", limits=Limits(max_files=2))
    _refused(
        errors.InputTooLarge,
        path,
        f"{total} unpacked bytes",
        limits=Limits(max_unpacked_bytes=total - 1),
    )
    _refused(errors.InputTooLarge, path, f"{size} bytes", limits=Limits(max_bytes=size - 1))
    exact = Limits(max_files=3, max_unpacked_bytes=total, max_bytes=size)
    assert len(unpack(path, tmp_path / "ok", exact)) == 3


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "\\x", "C:\\x", "C:x", "..\\x", "//host/share/x"]
)
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    path = _pack(tmp_path / "a.zip", {"ok": b"1", name: b"2"})
    _refused(errors.UnsafeArchive, path, "File 2 of 2", "leads out")


def test_links(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    _refused(errors.UnsafeArchive, path, "link")


def test_encrypted(tmp_path: Path) -> None:
    path = _pack(tmp_path / "a.zip", CONTENTS)
    raw = bytearray(path.read_bytes())
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 8] |= 1
    path.write_bytes(raw)
    _refused(errors.UnsafeArchive, path, "File 1 of 3", "encrypted")


def test_bomb(tmp_path: Path) -> None:
    path = _pack(tmp_path / "a.zip", {"bomb": bytes(3 * MIB)})
    _refused(errors.UnsafeArchive, path, "times its size (at most 200)")
    # A blank slice is as dense and may pass.
    assert len(unpack(_pack(path, {"blank": bytes(MIB)}), tmp_path / "ok")) == 1


def test_a_directory_that_lies_about_sizes(tmp_path: Path) -> None:
    path = _pack(tmp_path / "a.zip", {"bomb": bytes(3 * MIB)})
    raw = bytearray(path.read_bytes())
    struct.pack_into("<L", raw, raw.index(b"PK\x01\x02") + 24, 1000)
    path.write_bytes(raw)
    _refused(errors.TruncatedFile, path, "damaged")


def test_files_that_share_their_bytes(tmp_path: Path) -> None:
    raw = _pack(tmp_path / "a.zip", {"x": bytes(MIB)}).read_bytes()
    start, end = raw.index(b"PK\x01\x02"), raw.index(b"PK\x05\x06")
    entry = raw[start:end]
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 9 * len(entry), start, 0)
    path = tmp_path / "b.zip"
    path.write_bytes(raw[:start] + entry * 9 + tail)
    _refused(errors.UnsafeArchive, path, "some share them")


def test_a_directory_longer_than_its_files_is_not_read(tmp_path: Path) -> None:
    path = _pack(
        tmp_path / "a.zip", {"x" * 60_000: b"1"} | {f"{i:060000}": b"2" for i in range(18)}
    )
    _refused(errors.InputTooLarge, path, "in its directory", limits=Limits(max_files=1000))
    assert len(unpack(path, tmp_path / "ok", Limits(max_files=2000))) == 19


def test_unusual_method(tmp_path: Path) -> None:
    path = _pack(tmp_path / "a.zip", CONTENTS, zipfile.ZIP_LZMA)
    _refused(errors.UnsupportedFormat, path, "method 14")


def test_unknown_zip_version(tmp_path: Path) -> None:
    path = _pack(tmp_path / "a.zip", CONTENTS)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 6] = 255
    path.write_bytes(raw)
    _refused(errors.TruncatedFile, path, "NotImplementedError")


def test_bad_checksum_leaves_nothing(tmp_path: Path) -> None:
    path = _pack(tmp_path / "a.zip", CONTENTS, zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    raw[raw.index(bytes(range(256))) + 7] ^= 1
    path.write_bytes(raw)
    _refused(errors.TruncatedFile, path, "damaged")
    into = tmp_path / "there"
    into.mkdir()
    (into / "mine").touch()
    with pytest.raises(errors.TruncatedFile):
        unpack(path, into)
    assert [f.name for f in into.iterdir()] == ["mine"]


@settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
)
def test_broken_archives_raise_nothing_else(tmp_path: Path, cut: float, changes) -> None:
    path = _pack(tmp_path / "a.zip", CONTENTS)
    whole = path.read_bytes()
    raw = bytearray(whole)
    for place, value in changes:
        raw[int(place * len(raw))] = value
    path.write_bytes(raw[: int(cut * len(raw))])
    before = set((tmp_path / "into").glob("*"))
    assert not before
    with contextlib.suppress(errors.IsletError):
        files = unpack(path, tmp_path / "into")
        assert raw != whole or [f.read_bytes() for f in files] == list(CONTENTS.values())
        for file in files:
            file.unlink()
    assert not list((tmp_path / "into").glob("*"))
