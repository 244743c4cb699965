"""NIfTI files made by nibabel, sound or with a header field overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.imaging.grids import rotation

# nibabel's (x, y, z) of a small CT.
STORED = np.random.default_rng(1).integers(-1000, 1500, (7, 6, 5)).astype(np.int16)
# RAS millimetres; oblique, with three spacings.
AFFINE = nib.affines.from_matvec(rotation(10, -20, 30) * [0.7, 0.9, 2.5], [-101.5, 40.25, 900])


def image(array: np.ndarray = STORED, affine: np.ndarray | None = AFFINE, two: bool = False) -> Any:
    return (nib.Nifti2Image if two else nib.Nifti1Image)(array, affine)


def save(folder: Path, made: Any, name: str = "ct.nii.gz") -> Path:
    path = folder / name
    nib.save(made, path)
    return path


def overwritten(**fields: object) -> bytes:
    """An uncompressed NIfTI-1 file, some of whose header fields were overwritten."""
    header, rest = nib.Nifti1Header(image().to_bytes()[:348]), image().to_bytes()[348:]
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock + rest)


def with_header(folder: Path, **fields: object) -> Path:
    """A file of :func:`overwritten`."""
    path = folder / "ct.nii"
    path.write_bytes(overwritten(**fields))
    return path
