"""NIfTI out: clean headers (equal sform and qform), the same bytes for the same voxels."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from isal import isal_zlib

from imaging.files import write_whole
from imaging.volume import Volume

# LPS millimetres with (z, y, x) columns -> RAS millimetres with (x, y, z) columns.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SCANNER = 1
# igzip's fastest level: a label map shrinks a hundredfold at every level, a CT barely at any.
_LEVEL = 1
_GZIP = 31  # deflate in a gzip container without a time stamp


def encode_nifti(volume: Volume) -> bytes:
    """A .nii.gz of the volume; equal volumes give equal bytes.

    Args:
        volume: int16, uint8 or float32 voxels (Z, Y, X).
    """
    array = np.ascontiguousarray(volume.array, volume.array.dtype.newbyteorder("="))
    # Ones, not zero or NaN: readers disagree on what an unset slope means.
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    affine = _LPS_TO_RAS @ volume.geometry.affine[:, [2, 1, 0, 3]]
    header.set_sform(affine, _SCANNER)
    header.set_qform(affine, _SCANNER)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1.0, 0.0)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    packer = isal_zlib.compressobj(_LEVEL, wbits=_GZIP)
    parts = [packer.compress(header.binaryblock + b"\0\0\0\0"), packer.compress(array.data)]
    return b"".join([*parts, packer.flush()])


def write_nifti(volume: Volume, path: Path) -> None:
    """Write ``encode_nifti``'s bytes; the file appears whole or not at all."""
    write_whole(path, encode_nifti(volume))
