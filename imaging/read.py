"""One door for every input: a file, a folder, an archive or a list of files becomes a Volume."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from imaging.archive import is_zip, unpack
from imaging.dicom import read_dicom
from imaging.dicom_headers import is_dicom
from imaging.errors import BadGeometry, EmptyInput, InputTooLarge, UnsupportedFormat
from imaging.geometry import Geometry
from imaging.limits import DEFAULT_LIMITS, Limits
from imaging.nifti import GZIP_MAGIC, is_nifti, read_nifti
from imaging.volume import Volume

# A NIfTI-1 header with its four extension bytes; DICOM and zip say what they are before that.
HEAD_BYTES = 352
# More than any scanner makes; what says so is hardly in millimetres, and a few of its bytes would
# be gigabytes on a model's grid.
MAX_EXTENT_MM, MAX_SPACING_MM = 5000.0, 50.0
WHAT_IS_READ = "NIfTI (.nii, .nii.gz), DICOM CT files, and zip archives of either"


def read_volume(
    source: Path | Sequence[Path],
    series: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    headers: bool = False,
) -> Volume:
    """Read a CT, whatever it is stored as; content decides, names do not.

    Args:
        source: a NIfTI file (.nii or .nii.gz), a DICOM file, a zip archive of either, a folder of
            DICOM files (searched recursively), or a list of DICOM files in any order. A folder or
            archive without DICOM may hold one NIfTI file.
        series: SeriesInstanceUID to take when DICOM input holds several series.
        limits: upper bounds on bytes, files and voxels.
        headers: whether to keep what DICOM outputs refer to, as ``Volume.source``; there is none
            in NIfTI input.

    Returns:
        Hounsfield units (int16 where integral) on the input's own grid.

    Raises:
        InputError: the subclass says what is wrong, its message names the values and the fix.
    """
    volume = _read(source, series, limits, headers)
    _check_extent(volume.geometry)
    return volume


def _check_extent(geometry: Geometry) -> None:
    extent = max(n * mm for n, mm in zip(geometry.shape, geometry.spacing, strict=True))
    if extent > MAX_EXTENT_MM or max(geometry.spacing) > MAX_SPACING_MM:
        raise BadGeometry(
            f"The CT is {extent:.0f} mm long, with voxels of {geometry.spacing} mm; at most "
            f"{MAX_EXTENT_MM:.0f} mm, and {MAX_SPACING_MM:.0f} mm a voxel, are taken. Repair the "
            "header: its unit may not be mm.",
            extent_mm=round(extent, 3),
            spacing_mm=[round(mm, 6) for mm in geometry.spacing],
        )


def _read(
    source: Path | Sequence[Path], series: str | None, limits: Limits, headers: bool
) -> Volume:
    if isinstance(source, Path):
        if source.is_dir():
            return _read_files(_files_in(source, limits), series, limits, headers)
        files = [source]
    else:
        files = list(source)
    for path in files:
        if not path.is_file():
            raise EmptyInput(f"There is no file at {path.name}; check the path.", name=path.name)
    if len(files) == 1:
        return _read_file(files[0], series, limits, headers)
    return _read_files(files, series, limits, headers)


def _read_file(path: Path, series: str | None, limits: Limits, headers: bool) -> Volume:
    size = path.stat().st_size
    if size == 0:
        raise EmptyInput("The file has 0 bytes; send it again.")
    if size > limits.max_bytes:
        raise InputTooLarge(
            f"The file has {size} bytes, over the limit of {limits.max_bytes}; send one CT.",
            bytes=size,
            max_bytes=limits.max_bytes,
        )
    head = _head(path)
    if head.startswith(GZIP_MAGIC) or is_nifti(head):
        return read_nifti(path, limits)
    if is_zip(head):
        with TemporaryDirectory(prefix="islet-") as folder:
            unpacked = unpack(path, Path(folder) / "files", limits)
            return _read_files(unpacked, series, limits, headers)
    if is_dicom(head):
        return read_dicom([path], series, limits, headers)
    raise UnsupportedFormat(
        f"A file that begins with the bytes {head[:8].hex(' ')} is no image that Islet reads; "
        f"send {WHAT_IS_READ}.",
        first_bytes=head[:8].hex(" "),
    )


def _read_files(files: Sequence[Path], series: str | None, limits: Limits, headers: bool) -> Volume:
    if not any(path.stat().st_size for path in files):
        raise EmptyInput(
            f"There is nothing in the {len(files)} files sent; send {WHAT_IS_READ}.",
            files=len(files),
        )
    if any(is_dicom(_head(path)) for path in files):
        return read_dicom(files, series, limits, headers)
    found = [path for path in files if is_nifti(_unpacked_head(path))]
    if len(found) != 1:
        raise UnsupportedFormat(
            f"Among {len(files)} files there is no DICOM and there are {len(found)} NIfTI files; "
            "send the files of one CT series, or one NIfTI file.",
            files=len(files),
            nifti=len(found),
        )
    return read_nifti(found[0], limits)


def _files_in(folder: Path, limits: Limits) -> list[Path]:
    """The files below a folder in name order, links that lead out of it left out."""
    root = folder.resolve()
    below = (
        path for path in folder.rglob("*") if path.is_file() and path.resolve().is_relative_to(root)
    )
    files = sorted(islice(below, limits.max_files + 1))
    if len(files) > limits.max_files:
        raise InputTooLarge(
            f"The folder has more than {limits.max_files} files; name the folder of one series.",
            max_files=limits.max_files,
        )
    return files


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _unpacked_head(path: Path) -> bytes:
    head = _head(path)
    if not head.startswith(GZIP_MAGIC):
        return head
    try:
        with gzip.open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except (EOFError, OSError, zlib.error):
        return b""
