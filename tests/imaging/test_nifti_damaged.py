"""NIfTI files that break off, are damaged, lie about their size, or are no NIfTI behind a magic."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging import nifti
from imaging.errors import InputTooLarge, IsletError, TruncatedFile, UnsafeArchive
from imaging.limits import Limits
from imaging.nifti import read_nifti
from tests.imaging.nifti_files import STORED, image, save, with_header


@given(st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, part: float, packed: bool) -> None:
    whole = gzip.compress(image().to_bytes(), mtime=0) if packed else image().to_bytes()
    path = tmp_path / "cut"
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(TruncatedFile):
        read_nifti(path)


def test_a_file_cut_in_its_last_bytes_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(image().to_bytes(), mtime=0)
    path = tmp_path / "cut"
    for cut in range(1, 12):
        path.write_bytes(whole[:-cut])
        with pytest.raises(TruncatedFile):
            read_nifti(path)


@given(st.integers(10, 400), st.integers(1, 255))
def test_a_damaged_gzip_never_passes_for_the_ct(tmp_path: Path, at: int, flip: int) -> None:
    whole = bytearray(gzip.compress(image().to_bytes(), mtime=0))
    whole[at % len(whole)] ^= flip
    path = tmp_path / "damaged"
    path.write_bytes(whole)
    with pytest.raises(IsletError):
        read_nifti(path)


@pytest.mark.parametrize("garbage", [b"\0" * 100, b"garbage", b"x" * 500_000])
@pytest.mark.parametrize("where", ["raw", "after gzip", "inside gzip"])
def test_what_follows_the_voxels_is_ignored(tmp_path: Path, garbage: bytes, where: str) -> None:
    raw = image().to_bytes()
    path = tmp_path / "ct"
    path.write_bytes(
        {
            "raw": raw + garbage,
            "after gzip": gzip.compress(raw) + garbage,
            "inside gzip": gzip.compress(raw + garbage),
        }[where]
    )
    np.testing.assert_array_equal(read_nifti(path).array, STORED.transpose())


def test_gzip_members_follow_each_other(tmp_path: Path) -> None:
    raw = image().to_bytes()
    path = tmp_path / "ct"
    path.write_bytes(b"".join(gzip.compress(raw[i : i + 100]) for i in range(0, len(raw), 100)))
    np.testing.assert_array_equal(read_nifti(path).array, STORED.transpose())


def test_more_gzip_members_than_a_ct_has_are_refused(tmp_path: Path, monkeypatch) -> None:
    raw, empty = gzip.compress(image().to_bytes(), mtime=0), gzip.compress(b"", mtime=0)
    path = tmp_path / "ct"
    path.write_bytes(empty * 99 + raw)
    np.testing.assert_array_equal(read_nifti(path).array, STORED.transpose())
    monkeypatch.setattr(nifti, "_MOST_MEMBERS", 99)
    with pytest.raises(UnsafeArchive, match="99 members"):
        read_nifti(path)


@pytest.mark.parametrize("packed", [False, True])
def test_no_room_is_made_for_voxels_that_the_file_cannot_hold(
    tmp_path: Path, monkeypatch, packed: bool
) -> None:
    path = with_header(tmp_path, dim=[3, 512, 512, 1000, 1, 1, 1, 1])
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    asked = []
    plain = np.empty
    monkeypatch.setattr(np, "empty", lambda n, *a, **k: asked.append(n) or plain(n, *a, **k))
    with pytest.raises(TruncatedFile, match="at most"):
        read_nifti(path)
    assert max(asked) < 1000


def test_dimensions_beyond_the_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TruncatedFile) as caught:
        read_nifti(with_header(tmp_path, dim=[3, 512, 512, 300, 1, 1, 1, 1]))
    assert caught.value.details["expected_bytes"] == 512 * 512 * 300 * 2
    json.dumps(caught.value.as_dict())


def test_a_long_gzip_is_unpacked_no_further_than_its_voxels(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(image().to_bytes() + bytes(200 * 2**20), 9))
    asked = []
    plain = np.empty
    monkeypatch.setattr(np, "empty", lambda n, *a, **k: asked.append(n) or plain(n, *a, **k))
    np.testing.assert_array_equal(read_nifti(path).array, STORED.transpose())
    assert max(asked) == STORED.nbytes


@pytest.mark.parametrize(
    ("dim", "limits"),
    [
        ([3, 30000, 30000, 30000, 1, 1, 1, 1], Limits()),
        ([3, 7, 6, 5, 1, 1, 1, 1], Limits(max_voxels=209)),
        ([3, 7, 6, 5, 1, 1, 1, 1], Limits(max_unpacked_bytes=419)),
    ],
)
def test_too_many_voxels_are_refused_before_reading_them(tmp_path: Path, dim, limits) -> None:
    path = with_header(tmp_path, dim=dim)
    # Nothing but the header is there: reading on would find the file truncated.
    path.write_bytes(path.read_bytes()[:348])
    with pytest.raises(InputTooLarge) as caught:
        read_nifti(path, limits)
    json.dumps(caught.value.as_dict())


def test_an_axis_that_the_masks_cannot_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputTooLarge, match="32767"):
        read_nifti(save(tmp_path, image(np.zeros((40_000, 2, 2), np.int8), two=True)))


@given(st.binary(min_size=540, max_size=3000), st.booleans(), st.booleans())
def test_garbage_behind_a_magic_is_refused_by_name(
    tmp_path: Path, garbage: bytes, two: bool, packed: bool
) -> None:
    content = bytearray(garbage)
    if two:
        content[:12] = b"\x1c\x02\0\0n+2\0\r\n\x1a\n"
    else:
        content[344:348] = b"n+1\0"
    path = tmp_path / "garbage"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    with pytest.raises(IsletError) as caught:
        read_nifti(path)
    json.dumps(caught.value.as_dict())


FIELDS = [
    (name, nib.Nifti1Header.template_dtype.fields[name])
    for name in nib.Nifti1Header.template_dtype.names
    if name not in ("magic", "dim")
]


@given(st.sampled_from(FIELDS), st.binary(min_size=80, max_size=80))
def test_one_field_of_garbage_is_read_or_refused_by_name(tmp_path: Path, field, noise) -> None:
    (_, (dtype, offset)) = field
    raw = bytearray(image().to_bytes())
    raw[offset : offset + dtype.itemsize] = noise[: dtype.itemsize]
    path = tmp_path / "odd"
    path.write_bytes(raw)
    try:
        volume = read_nifti(path)
    except IsletError as error:
        json.dumps(error.as_dict())
    else:
        assert volume.array.dtype in (np.int16, np.float32)
        assert np.isfinite(volume.array).all()
