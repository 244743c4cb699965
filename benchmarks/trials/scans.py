"""CTs of several sizes for a service with the tiny model, and what it must answer to each."""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imaging.read import read_volume
from imaging.writers.nifti import encode_nifti
from tests.serving.tiny_model import boxes_ct

SHAPES = ((20, 40, 48), (24, 64, 64), (40, 96, 96), (48, 128, 128))
LABELS = "labels.nii.gz"
# Less than half of what lies between two of the tiny model's classes.
_NOISE_HU = 9


@dataclass(frozen=True)
class Scan:
    """A CT as a client sends it.

    Attributes:
        shape: (Z, Y, X).
        body: of the request, NIfTI.
    """

    shape: tuple[int, int, int]
    body: bytes

    def answered_by(self, archive: bytes) -> bool:
        """Whether a result holds this CT's label map and no other's, voxel for voxel."""
        with zipfile.ZipFile(io.BytesIO(archive)) as packed, tempfile.TemporaryDirectory() as name:
            path = Path(name) / LABELS
            path.write_bytes(packed.read(LABELS))
            found = read_volume(path).array
        return np.array_equal(found, boxes_ct(self.shape)[1])


def scan(shape: tuple[int, int, int], chance: random.Random | None = None) -> Scan:
    """The boxes CT in a size.

    Args:
        shape: (Z, Y, X).
        chance: of noise that no compression makes much smaller and no label depends on.
    """
    volume = boxes_ct(shape)[0]
    if chance is not None:
        rng = np.random.default_rng(chance.randrange(1 << 30))
        noise = rng.integers(-_NOISE_HU, _NOISE_HU, shape, np.int16, endpoint=True)
        volume = volume.with_array(volume.array + noise)
    return Scan(shape, encode_nifti(volume))


def scans(shapes: tuple[tuple[int, int, int], ...] = SHAPES) -> list[Scan]:
    """One of each size."""
    return [scan(shape) for shape in shapes]


def labels_of(archive: bytes) -> str:
    """SHA-256 of the label map in a result."""
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        return hashlib.sha256(packed.read(LABELS)).hexdigest()
