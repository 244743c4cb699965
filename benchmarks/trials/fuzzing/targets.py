"""What is fuzzed: readers of bytes, what their results must hold, and small files to begin with.

A target gives back the code of the error that a reader refused the bytes with, or ``READ``. Any
other error goes through, and so does :class:`AssertionError` for a result that is none.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.trials.fuzzing import seeds
from imaging.archive import unpack
from imaging.dicom import read_dicom
from imaging.errors import IsletError
from imaging.limits import MIB, Limits
from imaging.nifti import read_nifti
from imaging.read import read_volume
from imaging.volume import Volume
from models import door
from models.manifest import Manifest
from models.onnxfile import read_identity

READ = "read"
# What a field of JSON may be where a number, a word or a list belongs.
_ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    10**309,
    1e308,
    float("nan"),
    "",
    "\ud800",
    "live",
    [],
    {},
    [[]],
)
# Small enough that what may be asked for is there in no time.
LIMITS = Limits(
    max_bytes=MIB, max_unpacked_bytes=4 * MIB, max_files=20, max_voxels=2**18, max_ratio=200.0
)


@dataclass(frozen=True)
class Target:
    """A reader to be fuzzed.

    Attributes:
        read: takes the bytes; raises what the reader raises.
        seeds: makes files that are read, and some that are refused.
        change: makes other bytes of some in a way that their format allows; raises ``ValueError``
            where they are not of it.
    """

    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    change: Callable[[bytes, random.Random], bytes] | None = None


def verdict(target: Target, data: bytes) -> str:
    """What a target says of bytes: ``READ``, or the code of the refusal.

    Raises:
        Exception: a crash, whatever it is.
    """
    try:
        target.read(data)
    except IsletError as error:
        # What leaves the house is JSON.
        json.dumps(error.as_dict(), allow_nan=False)
        return error.code
    return READ


def _nifti(data: bytes) -> None:
    path = _folder() / "ct"
    path.write_bytes(data)
    _check(read_nifti(path, LIMITS))


def _dicom(data: bytes) -> None:
    """One slice of three, or a file of its own, as the first byte says."""
    path = _folder() / "slice"
    path.write_bytes(data[1:])
    others = _others() if data[:1] == seeds.AMONG_OTHERS else []
    _check(read_dicom([*others, path], limits=LIMITS, headers=True))


def _archive(data: bytes) -> None:
    path, into = _folder() / "archive", _folder() / "unpacked"
    path.write_bytes(data)
    try:
        files = unpack(path, into, LIMITS)
    except IsletError:
        assert not into.exists(), "a refused archive left something behind"
        raise
    sizes = [file.stat().st_size for file in files]
    try:
        assert sorted(into.iterdir()) == files, "a name of the archive reached the disk"
        assert sum(sizes) <= LIMITS.max_unpacked_bytes
    finally:
        for file in into.iterdir():
            file.unlink()
        into.rmdir()
    _check(read_volume(path, limits=LIMITS))


def _manifest(data: bytes) -> None:
    made = Manifest.from_json(data.decode(errors="surrogateescape"))
    assert Manifest.from_json(made.to_json()) == made, "a manifest does not come back as it was"


def _model(data: bytes) -> None:
    """A file that describes itself, and the same with a manifest beside it."""
    path = _folder() / "model.onnx"
    path.write_bytes(data)
    # The first run has a process of its own to break.
    with patch("models.door.attempt", lambda _path: None):
        door.check(path, seeds.manifest_text(), MIB)
    read_identity(path)


def other_json(data: bytes, rng: random.Random) -> bytes:
    """The same JSON with one value, somewhere in it, made an odd one."""
    raw = [json.loads(data)]
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [raw]
    while waiting:
        inner = waiting.pop()
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        places += [(inner, key) for key in keys]
        waiting += [inner[key] for key in keys if isinstance(inner[key], dict | list)]
    inner, key = rng.choice(places)
    inner[key] = rng.choice(_ODD)
    return json.dumps(raw[0]).encode()


def _check(volume: Volume) -> None:
    """What every volume that was read must be."""
    assert volume.array.dtype in (np.int16, np.float32), volume.array.dtype
    assert np.isfinite(volume.array).all(), "voxels that are no numbers"
    assert volume.array.shape == volume.geometry.shape
    assert all(isinstance(note, str) for note in volume.warnings)
    assert np.isfinite(volume.geometry.affine).all()


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="islet-fuzz-"))


@cache
def _others() -> list[Path]:
    return seeds.slices(_folder())[1:]


TARGETS: Mapping[str, Target] = {
    "nifti": Target(_nifti, seeds.nifti),
    "dicom": Target(_dicom, seeds.dicom),
    "archive": Target(_archive, seeds.archive),
    "manifest": Target(_manifest, seeds.manifest, other_json),
    "model": Target(_model, seeds.model),
}


def silent(target: Target, data: bytes) -> str:
    """:func:`verdict`, and nothing printed."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return verdict(target, data)
