"""Faulty DICOM series, archives and NIfTI files, sent over HTTP: 4xx and the fault's own code."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from imaging.errors import InputError
from tests.imaging.dicom_files import Edit, stored_values, write_series
from tests.imaging.nifti_files import STORED, image, overwritten
from tests.imaging.test_dicom_refused import REFUSALS
from tests.serving.api.house import Service, error_of


def as_form(paths: list[Path]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("ct", (p.name, p.read_bytes())) for p in paths]


@pytest.mark.parametrize("name", REFUSALS)
def test_a_faulty_series_is_refused_with_its_code(
    service: Service,
    tmp_path: Path,
    name: str,
) -> None:
    edit: Edit
    kind: type[InputError]
    edit, kind, said = REFUSALS[name]
    files = write_series(tmp_path / "series", stored_values(), edit=edit)
    answer = service.client.post("/v1/segment", files=as_form(files))
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (422, kind.code)
    assert all(words in error["message"] for words in said)


def test_of_several_series_one_can_be_chosen(
    service: Service,
    tmp_path: Path,
) -> None:
    stored = np.full((5, 40, 48), 1024, np.uint16)
    uids = ["1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"]
    files = [
        path
        for n, uid in enumerate(uids)
        for path in write_series(tmp_path / str(n), stored[: 4 + n], series=uid)
    ]
    error = error_of(service.client.post("/v1/segment", files=as_form(files)))
    assert error["code"] == "several_series"
    assert all(uid in error["message"] for uid in uids)
    url = f"/v1/segment?outputs=report&series={uids[1]}"
    report = service.client.post(url, files=as_form(files)).json()
    assert report["input"]["shape"] == [5, 40, 48]
    assert report["input"]["format"] == "dicom"


def refused(service: Service, data: bytes | bytearray, status: int, code: str) -> None:
    answer = service.client.post("/v1/segment", content=bytes(data))
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (status, code), error


def packed(method: int = zipfile.ZIP_DEFLATED, **files: bytes) -> bytearray:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return bytearray(made.getvalue())


def with_entries(offset: int, form: str, value: int, count: int = 1) -> bytearray:
    """An archive whose directory lies in one field of every file."""
    raw = packed(**{str(number): b"not a CT" for number in range(count)})
    entry = -1
    for _ in range(count):
        entry = raw.index(b"PK\x01\x02", entry + 1)
        struct.pack_into(form, raw, entry + offset, value)
    return raw


def renamed(name: str) -> bytearray:
    return packed(**{name: b"not a CT"})


def linked() -> bytearray:
    link = zipfile.ZipInfo("ct")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    return bytearray(made.getvalue())


ARCHIVES = {
    "no file": (packed(), 422, "empty_input"),
    "empty files": (packed(a=b"", b=b""), 422, "empty_input"),
    "no image": (packed(a=b"words", b=b"more words"), 415, "unsupported_format"),
    "cut": (packed(ct=bytes(range(256)) * 9)[:-30], 422, "truncated_file"),
    "encrypted": (with_entries(8, "<H", 1), 422, "unsafe_archive"),
    "unpacks to 3 GB": (with_entries(24, "<L", 3_000_000_000), 422, "unsafe_archive"),
    "unpacks to 6 GB": (with_entries(24, "<L", 3_000_000_000, 2), 413, "input_too_large"),
    "unpacks to more than it says": (with_entries(24, "<L", 3), 422, "truncated_file"),
    "wrong checksum": (with_entries(16, "<L", 1), 422, "truncated_file"),
    "a bomb": (packed(bomb=bytes(2**22)), 422, "unsafe_archive"),
    "lzma": (packed(zipfile.ZIP_LZMA, ct=b"not a CT"), 415, "unsupported_format"),
    "a name that leads out": (renamed("../../ct"), 422, "unsafe_archive"),
    "an absolute name": (renamed("/etc/cron.d/ct"), 422, "unsafe_archive"),
    "a link": (linked(), 422, "unsafe_archive"),
    "an archive in the archive": (packed(ct=bytes(packed(ct=b"x"))), 415, "unsupported_format"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_faulty_archive_is_refused_with_its_code(
    service: Service,
    name: str,
) -> None:
    refused(service, *ARCHIVES[name])


def nifti(array: np.ndarray) -> bytes:
    return bytes(image(array).to_bytes())


NIFTIS = {
    "cut": (nifti(STORED)[:-5], 422, "truncated_file"),
    "cut in its header": (nifti(STORED)[:200], 415, "unsupported_format"),
    "cut in its gzip": (gzip.compress(nifti(STORED))[:-9], 422, "truncated_file"),
    "one slice": (nifti(STORED[:, :, :1]), 422, "bad_shape"),
    "several frames": (nifti(np.stack([STORED] * 3, -1)), 422, "bad_shape"),
    "colours": (nifti(np.zeros((4, 4, 4), [(c, "u1") for c in "RGB"])), 415, "unsupported_format"),
    "complex": (nifti(STORED.astype(np.complex64)), 415, "unsupported_format"),
    "all NaN": (nifti(np.full((4, 4, 4), np.nan, np.float32)), 422, "bad_voxels"),
    "no grid": (overwritten(qform_code=0, srow_x=0, srow_y=0, srow_z=0), 422, "bad_geometry"),
    "NaN affine": (overwritten(qform_code=0, srow_x=np.nan), 422, "bad_geometry"),
}


@pytest.mark.parametrize("name", NIFTIS)
def test_a_faulty_nifti_is_refused_with_its_code(
    service: Service,
    name: str,
) -> None:
    refused(service, *NIFTIS[name])
