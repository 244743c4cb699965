"""A forged input, what must come of it, and what is wrong with what came."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imaging.limits import MIB, Limits
from imaging.volume import Volume

# Of the reader and of the service alike, small so that what passes them is small too.
LIMITS = Limits(
    max_bytes=16 * MIB, max_unpacked_bytes=64 * MIB, max_files=2000, max_voxels=4_000_000
)
# Every random value of every case comes from here.
SEED = 20261122
# Millimetres are stored as float32.
_SPACING_TOLERANCE = 1e-4

Write = Callable[[Path], Path]


@dataclass(frozen=True)
class Answer:
    """What must hold of an input that is read.

    Attributes:
        shape: (Z, Y, X).
        spacing: mm along the same axes; ``None`` where it does not matter.
        hu: the least and the largest voxel; ``None`` where they do not matter.
        says: words of the reader's warnings, one for each warning in its order.
        nothing_here: what the report says, for what shows no abdomen; ``None`` does not ask.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None = None
    hu: tuple[float, float] | None = None
    says: tuple[str, ...] = ()
    nothing_here: bool | None = None


@dataclass(frozen=True)
class Case:
    """One forged input.

    Attributes:
        name: of no other case.
        family: whose line of the table it counts in.
        write: puts it into an empty folder and returns what is to be read: a file or a folder.
        expected: the code of its refusal, or what must hold of the answer.
        series: SeriesInstanceUID that is asked for.
        outputs: that the service is asked for; the reader keeps headers for DICOM ones.
        served: the code of a service's refusal where the model, not the reader, refuses.
    """

    name: str
    family: str
    write: Write
    expected: str | Answer
    series: str | None = None
    outputs: str = "report"
    served: str | None = None

    @property
    def headers(self) -> bool:
        """Whether a DICOM output is asked for."""
        return self.outputs != "report"


@dataclass(frozen=True)
class Seen:
    """What came of a case, one way or the other.

    Attributes:
        code: of the refusal, or of what is no refusal (``crashed: ...``); ``None`` for an answer.
        shape: (Z, Y, X) of an answer, as all below.
        spacing: mm.
        hu: least and largest voxel; ``None`` where the way does not tell.
        warnings: sentences; over HTTP with those of the model behind the reader's.
        nothing_here: what the report says; ``None`` where the way does not tell.
    """

    code: str | None = None
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    hu: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()
    nothing_here: bool | None = None


def seen_in(volume: Volume) -> Seen:
    """What a volume that was read shows."""
    return Seen(
        shape=volume.array.shape,
        spacing=volume.geometry.spacing,
        hu=(float(volume.array.min()), float(volume.array.max())),
        warnings=volume.warnings,
    )


def fault(expected: str | Answer, seen: Seen) -> str | None:
    """What is wrong with what came, or ``None``."""
    if isinstance(expected, str):
        return None if seen.code == expected else f"{seen.code or 'answered'}, not {expected}"
    if seen.code is not None:
        return f"{seen.code}, not answered"
    if seen.shape != expected.shape:
        return f"shape {seen.shape}, not {expected.shape}"
    if not _close(seen.spacing, expected.spacing):
        return f"spacing {seen.spacing}, not {expected.spacing}"
    if seen.hu is not None and not (
        all(map(math.isfinite, seen.hu)) and _close(seen.hu, expected.hu)
    ):
        return f"{seen.hu} HU, not {expected.hu}"
    if not _all_said(expected, seen):
        return f"warns {seen.warnings}, not of {expected.says}"
    if seen.nothing_here is not None and expected.nothing_here not in (None, seen.nothing_here):
        return f"nothing_here is {seen.nothing_here}"
    return None


def _close(found: Sequence[float], wanted: Sequence[float] | None) -> bool:
    return wanted is None or all(
        math.isclose(a, b, rel_tol=_SPACING_TOLERANCE, abs_tol=_SPACING_TOLERANCE)
        for a, b in zip(found, wanted, strict=True)
    )


def _all_said(expected: Answer, seen: Seen) -> bool:
    of_the_reader = seen.warnings[: len(expected.says)]
    if seen.nothing_here is None and len(seen.warnings) != len(expected.says):
        return False
    return len(of_the_reader) == len(expected.says) and all(
        words in sentence for words, sentence in zip(expected.says, of_the_reader, strict=True)
    )


def bytes_case(
    family: str, name: str, data: bytes | Callable[[], bytes], expected: str | Answer
) -> Case:
    """A case of one file with these bytes, made when it is written where they are many."""

    def write(folder: Path) -> Path:
        path = folder / "forged"
        path.write_bytes(data if isinstance(data, bytes) else data())
        return path

    return Case(f"{family}: {name}", family, write, expected)
