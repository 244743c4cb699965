"""How much an input may be; one value, so that every way in has the same limits."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Upper bounds on one input.

    Attributes:
        max_bytes: of the upload as it comes in.
        max_unpacked_bytes: of everything in an archive or a compressed file together.
        max_files: in a folder, an archive or a multipart body.
        max_voxels: of the volume (512 x 512 x 2000 by default).
        max_ratio: unpacked to packed bytes of an archive member over 1 MiB; real slices deflate
            two to three times.
    """

    max_bytes: int = 2048 * MIB
    max_unpacked_bytes: int = 4096 * MIB
    max_files: int = 10_000
    max_voxels: int = 512 * 512 * 2000
    max_ratio: float = 200.0


DEFAULT_LIMITS = Limits()
