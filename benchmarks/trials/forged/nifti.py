"""NIfTI that lies: about its size, its voxels, their scale, or their place in the patient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.trials.forged.case import Answer, Case, bytes_case
from tests.imaging.nifti_files import AFFINE, STORED, image, overwritten

FAMILY = "nifti"

# What STORED and its affine read as.
SHAPE, SPACING = (5, 6, 7), (2.5, 0.9, 0.7)
SOUND = Answer(SHAPE, SPACING, (float(STORED.min()), float(STORED.max())))
_NAN, _INF = float("nan"), float("inf")

Forged = tuple[str, bytes, str | Answer]


def cases() -> Iterator[Case]:
    """Of headers that lie."""
    for part in (_sizes, _second_sizes, _types, _scales, _places, _spacings, _units, _offsets):
        for name, data, expected in part():
            yield bytes_case(FAMILY, name, data, expected)


def _sizes() -> Iterator[Forged]:
    """Dimensions that the file does not have, or that no CT has."""
    for first in (-1, 0, 1, 2, 8, 100, 32767):
        yield f"{first} dimensions", overwritten(dim=[first, 7, 6, 5, 1, 1, 1, 1]), "bad_shape"
    dims: dict[str, tuple[list[int], str | Answer]] = {
        "5D of one frame": ([5, 7, 6, 5, 1, 1, 1, 1], SOUND),
        "7D of one frame": ([7, 7, 6, 5, 1, 1, 1, 1], SOUND),
        "5D of three components": ([5, 7, 6, 5, 1, 3, 1, 1], "bad_shape"),
        "two frames": ([4, 7, 6, 5, 2, 1, 1, 1], "bad_shape"),
        "no frame": ([4, 7, 6, 5, 0, 1, 1, 1], "bad_shape"),
        "no columns": ([3, 0, 6, 5, 1, 1, 1, 1], "bad_shape"),
        "fewer than no rows": ([3, 7, -6, 5, 1, 1, 1, 1], "bad_shape"),
        "all sides negative": ([3, -7, -6, -5, 1, 1, 1, 1], "bad_shape"),
        "one column": ([3, 1, 6, 5, 1, 1, 1, 1], "bad_shape"),
        "one row": ([3, 7, 1, 5, 1, 1, 1, 1], "bad_shape"),
        "one slice": ([3, 7, 6, 1, 1, 1, 1, 1], "bad_shape"),
        "a slice too many": ([3, 7, 6, 6, 1, 1, 1, 1], "truncated_file"),
        "100 slices too many": ([3, 7, 6, 105, 1, 1, 1, 1], "truncated_file"),
        "a slice too few": ([3, 7, 6, 4, 1, 1, 1, 1], Answer((4, 6, 7), SPACING)),
        "as many voxels as may be": ([3, 2000, 1000, 2, 1, 1, 1, 1], "truncated_file"),
        "as long an axis as may be": ([3, 32767, 2, 2, 1, 1, 1, 1], "truncated_file"),
        "a row over the limit": ([3, 2000, 1001, 2, 1, 1, 1, 1], "input_too_large"),
        "2^45 voxels": ([3, 32767, 32767, 32767, 1, 1, 1, 1], "input_too_large"),
    }
    for name, (dim, expected) in dims.items():
        yield name, overwritten(dim=dim), expected


def _second_sizes() -> Iterator[Forged]:
    """The same in version 2, whose sides have 64 bits."""
    whole = image(two=True).to_bytes()
    yield "version 2", whole, SOUND
    for name, sides, code in (
        ("2^40 columns", (2**40, 6, 5), "input_too_large"),
        ("2^63 - 1 columns", (2**63 - 1, 6, 5), "input_too_large"),
        ("2^62 on each side", (2**62, 2**62, 2**62), "input_too_large"),
        ("-2^63 columns", (-(2**63), 6, 5), "bad_shape"),
        ("40,000 columns", (40_000, 2, 2), "input_too_large"),
    ):
        header = nib.Nifti2Header(whole[:540])
        header["dim"] = [3, *sides, 1, 1, 1, 1]
        yield f"version 2 of {name}", header.binaryblock + whole[540:], code
    header = nib.Nifti2Header(whole[:540])
    header["vox_offset"] = 2**62
    yield "version 2 voxels at 2^62", header.binaryblock + whole[540:], "unsupported_format"


def _types() -> Iterator[Forged]:
    """Types of voxels: those that hold Hounsfield units, and those that do not."""
    for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        for order in "<>":
            data = whole_file((np.abs(STORED) // 20).astype(kind), order)
            yield f"voxels {order}{kind}", data, Answer(SHAPE, SPACING, (0.0, 74.0))
    for code, name in (
        (0, "of no type"),
        (1, "of single bits"),
        (1536, "of 16-byte floats"),
        (2048, "of 32-byte complex numbers"),
        (3, "of type 3"),
        (9999, "of type 9999"),
        (-1, "of type -1"),
    ):
        yield f"voxels {name}", overwritten(datatype=code), "unsupported_format"
    for code, name, size in (
        (32, "complex64", 8),
        (1792, "complex128", 16),
        (128, "RGB", 3),
        (2304, "RGBA", 4),
    ):
        data = overwritten(datatype=code)[:352] + bytes(STORED.size * size)
        yield f"voxels of {name}", data, "unsupported_format"
    yield "voxels of twice the bytes", overwritten(datatype=8), "truncated_file"
    yield "voxels of half the bytes", overwritten(datatype=2), Answer(SHAPE, SPACING, (0.0, 255.0))
    yield "a size of voxels that is not the type's", overwritten(bitpix=64), SOUND
    yield "voxels said to be labels", overwritten(intent_code=1002), SOUND
    yield "voxels said to be vectors", overwritten(intent_code=1007), SOUND


def whole_file(array: NDArray[Any], order: str = "<") -> bytes:
    """A sound file of any voxels (X, Y, Z)."""
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(array.dtype.newbyteorder("<" if order == "<" else ">"))
    return bytes(nib.Nifti1Image(array, AFFINE, header).to_bytes())


def _scales() -> Iterator[Forged]:
    """Slopes and intercepts."""
    low, high = float(STORED.min()), float(STORED.max())
    scales: dict[str, tuple[float, float, str | tuple[float, float]]] = {
        "slope of 0": (0, 99, (low, high)),
        "slope that is no number": (_NAN, 99, (low, high)),
        "slope without end": (_INF, 0, (low, high)),
        "slope below zero": (-1, 0, (-high, -low)),
        "slope of one part in 10^40": (1e-40, 0, (0.0, 0.0)),
        "slope beyond floats": (3e38, 0, "bad_voxels"),
        "intercept beyond tissue": (1, 1e6, (32767.0, 32767.0)),
        "intercept below tissue": (1, -1e38, (-32768.0, -32768.0)),
        "intercept without end": (1, _INF, "unsupported_format"),
        "intercept that is no number": (1, _NAN, "unsupported_format"),
    }
    for name, (slope, inter, found) in scales.items():
        expected = found if isinstance(found, str) else Answer(SHAPE, SPACING, found)
        yield name, overwritten(scl_slope=slope, scl_inter=inter), expected


def _places() -> Iterator[Forged]:
    """Affines: which place is believed, and which is none."""
    nowhere = {"srow_x": [_NAN] * 4, "srow_y": [_NAN] * 4, "srow_z": [_NAN] * 4}
    flat = {"srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4}
    plain = {"srow_x": [0.7, 0, 0, 0], "srow_y": [0, 0.9, 0, 0], "srow_z": [0, 0, 2.5, 0]}
    alone = plain | {"qform_code": 0}
    assumed, ignored = ("no orientation",), ("sform is no grid",)
    places: dict[str, tuple[dict[str, Any], str | tuple[str, ...]]] = {
        "sform of NaN alone": (nowhere | {"qform_code": 0}, "bad_geometry"),
        "sform of NaN before a qform": (nowhere | {"qform_code": 1}, ignored),
        "sform and qform of NaN": (nowhere | {"qform_code": 1, "quatern_b": _NAN}, "bad_geometry"),
        "sform without end": ({"srow_x": [_INF] * 4, "qform_code": 0}, "bad_geometry"),
        "sform of zeros alone": (flat | {"qform_code": 0}, "bad_geometry"),
        "sform of zeros before a qform": (flat | {"qform_code": 1}, ignored),
        "two equal axes": (plain | {"srow_y": [0.7, 0, 0, 0], "qform_code": 0}, "bad_geometry"),
        "an axis of zeros": (plain | {"srow_z": [0] * 4, "qform_code": 0}, "bad_geometry"),
        "axes in one plane": (
            plain | {"srow_x": [0.7, 0.9, 0, 0], "srow_y": [0] * 4, "qform_code": 0},
            "bad_geometry",
        ),
        "a shear of 3 degrees": (
            plain | {"srow_x": [0.7, 0.0472, 0, 0], "qform_code": 0},
            ("not orthonormal",),
        ),
        "a shear of 30 degrees": (
            plain | {"srow_x": [0.7, 0.52, 0, 0], "qform_code": 0},
            "bad_geometry",
        ),
        "sform and qform apart": (plain | {"qform_code": 1}, ("disagree",)),
        "a mirrored sform": (plain | {"srow_x": [-0.7, 0, 0, 0], "qform_code": 0}, ()),
        "an offset of NaN": (alone | {"srow_z": [0, 0, 2.5, _NAN]}, "bad_geometry"),
        "an offset of 10^30": (alone | {"srow_x": [0.7, 0, 0, 1e30]}, "bad_geometry"),
        "an offset of a kilometre": (plain | {"srow_x": [0.7, 0, 0, 1e6], "qform_code": 0}, ()),
        "codes below zero": ({"sform_code": -1, "qform_code": -1}, assumed),
        "codes that do not exist": ({"sform_code": 99, "qform_code": 99}, ()),
        "no codes": ({"sform_code": 0, "qform_code": 0}, assumed),
        "a quaternion longer than 1": (
            {"sform_code": 0, "qform_code": 1, "quatern_b": 1, "quatern_c": 1, "quatern_d": 1},
            "bad_geometry",
        ),
    }  # fmt: skip
    for name, (fields, found) in places.items():
        yield name, overwritten(**fields), found if isinstance(found, str) else _somewhere(found)


def _somewhere(says: tuple[str, ...]) -> Answer:
    return Answer(SHAPE, hu=SOUND.hu, says=says)


def _spacings() -> Iterator[Forged]:
    """Sizes of voxels where the header has no affine."""
    qfac: dict[str, float] = {"unset": 0, "mirrored": -1, "of 5": 5, "of NaN": _NAN}
    for name, first in qfac.items():
        fields = {"sform_code": 0, "qform_code": 1, "pixdim": [first, 0.7, 0.9, 2.5, 0, 0, 0, 0]}
        yield f"handedness {name}", overwritten(**fields), Answer(SHAPE, SPACING, SOUND.hu)
    assumed = Answer(SHAPE, SPACING, SOUND.hu, ("no orientation",))
    for name, width, expected in (
        ("below zero", -0.7, assumed),
        ("of zero", 0, "bad_geometry"),
        ("of NaN", _NAN, "bad_geometry"),
        ("without end", _INF, "bad_geometry"),
        ("of an atom", 1e-9, "bad_geometry"),
        ("of 100 m", 1e5, "bad_geometry"),
        ("of 10^30 mm", 1e30, "bad_geometry"),
    ):
        fields = {"sform_code": 0, "qform_code": 0, "pixdim": [1, width, 0.9, 2.5, 0, 0, 0, 0]}
        yield f"a width {name}", overwritten(**fields), expected


def _units() -> Iterator[Forged]:
    z, y, x = SPACING
    for name, code, scale in (("unknown", 0, 1), ("mm", 2, 1), ("um", 3, 1e-3), ("7", 7, 1)):
        spacing = (z * scale, y * scale, x * scale)
        yield f"unit {name}", overwritten(xyzt_units=code), Answer(SHAPE, spacing, SOUND.hu)
    yield "unit m", overwritten(xyzt_units=1), "bad_geometry"


def _offsets() -> Iterator[Forged]:
    """Where the voxels begin, and what says that it is NIfTI."""
    for name, offset, expected in (
        ("unset", 0, SOUND),
        ("between two bytes", 352.5, SOUND),
        ("below zero", -5, "unsupported_format"),
        ("in the header", 100, "unsupported_format"),
        ("behind the end", 2**23, "truncated_file"),
        ("far behind the end", 1e9, "unsupported_format"),
        ("of NaN", _NAN, "unsupported_format"),
        ("without end", _INF, "unsupported_format"),
    ):
        yield f"voxels at an offset {name}", overwritten(vox_offset=offset), expected
    for name, size in (("of 0", 0), ("of 349", 349), ("of the other byte order", 1543569408)):
        yield f"a header {name}", overwritten(sizeof_hdr=size), SOUND
    for magic in (b"ni1", b"n+3", b"N+1", b""):
        yield f"magic {magic.decode()!r}", overwritten(magic=magic), "unsupported_format"
