"""Which series of a study is segmented: the rules of a TOML file, and why a series fails them."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from imaging.errors import BadParameter, NoSuitableSeries
from serving.pacs.table import Table

SHIPPED = Path(__file__).with_name("rules.toml")
MAKER = "Islet"
ORDERS = ("words", "thickness", "slices")

# What a rejected series is told it failed; a report names these and never a description, which is
# free text that may hold a name.
MADE_HERE = "made_here"
LESS_PREFERRED = "less_preferred"


@dataclass(frozen=True)
class Series:
    """What is known of a series; what is not is ``None`` or empty and fails no rule.

    Attributes:
        uid: SeriesInstanceUID.
        modality, body_part, description, kernel, manufacturer: as the headers say.
        image_type: words of ImageType.
        slices: of the whole series.
        instances: files of the whole series.
        thickness_mm, spacing_mm: of a slice, and from slice to slice.
        tilt: degrees between the slices' normal and the patient's long axis.
    """

    uid: str
    modality: str = ""
    body_part: str = ""
    description: str = ""
    kernel: str = ""
    manufacturer: str = ""
    image_type: tuple[str, ...] = ()
    slices: int | None = None
    instances: int | None = None
    thickness_mm: float | None = None
    spacing_mm: float | None = None
    tilt: float | None = None

    @classmethod
    def of(cls, header: Dataset, instances: int | None = None) -> Series:
        """From the header of one instance and how many there are, or from a search's answer."""
        shared = _inner(header, "SharedFunctionalGroupsSequence")
        measures = _inner(shared, "PixelMeasuresSequence")
        plane = _inner(shared, "PlaneOrientationSequence")
        geometry = _inner(shared, "ReconstructionSequence") or header
        frames = _number(header, "NumberOfFrames") or 1
        related = _number(header, "NumberOfSeriesRelatedInstances")
        many = instances or (None if related is None else int(related))
        return cls(
            uid=_text(header, "SeriesInstanceUID"),
            modality=_text(header, "Modality"),
            body_part=_text(header, "BodyPartExamined"),
            description=_text(header, "SeriesDescription"),
            kernel=_text(header, "ConvolutionKernel") or _text(geometry, "ConvolutionKernel"),
            manufacturer=_text(header, "Manufacturer"),
            image_type=tuple(filter(None, _text(header, "ImageType").upper().split("\\"))),
            slices=None if many is None else many * int(frames),
            instances=many,
            thickness_mm=_number(header, "SliceThickness") or _number(measures, "SliceThickness"),
            spacing_mm=_number(header, "SpacingBetweenSlices"),
            tilt=_tilt(header) if "ImageOrientationPatient" in header else _tilt(plane),
        )


@dataclass(frozen=True)
class Rules:
    """What a series must be, and which of several is taken.

    Attributes:
        modalities: one of them.
        body_parts: one of them, letters only, in capitals.
        slices, slice_mm: least and most.
        axial_within: degrees.
        include, exclude: patterns of the description.
        exclude_kernel: patterns of the reconstruction kernel.
        exclude_image_type: sets of words that do not occur together.
        order: of ``ORDERS``; the first that differs decides.
        words: patterns of the description, the best first.
    """

    modalities: tuple[str, ...]
    body_parts: frozenset[str]
    slices: tuple[float, float]
    slice_mm: tuple[float, float]
    axial_within: float
    include: tuple[re.Pattern[str], ...]
    exclude: tuple[re.Pattern[str], ...]
    exclude_kernel: tuple[re.Pattern[str], ...]
    exclude_image_type: tuple[frozenset[str], ...]
    order: tuple[str, ...]
    words: tuple[re.Pattern[str], ...]

    def refusal(self, series: Series) -> str | None:
        """Name of the first rule that a series fails, or ``None``."""
        passed = {
            "modality": not series.modality or series.modality in self.modalities,
            MADE_HERE: series.manufacturer != MAKER,
            "slices": _within(series.slices, self.slices),
            "image_type": not any(words <= _words(series) for words in self.exclude_image_type),
            "body_part": self._is_part(series.body_part),
            "orientation": _within(series.tilt, (0.0, self.axial_within)),
            "slice_mm": _within(series.thickness_mm, self.slice_mm)
            and _within(series.spacing_mm, self.slice_mm),
            "description": not _matches(self.exclude, series.description),
            "kernel": not _matches(self.exclude_kernel, series.kernel),
            "include": not self.include or _matches(self.include, series.description),
        }
        return next((rule for rule, held in passed.items() if not held), None)

    def best(self, series: Sequence[Series]) -> Series:
        """The one to take of series that all pass; UIDs decide between equals."""
        return min(series, key=lambda s: (*(self._rank(s)[o] for o in self.order), s.uid))

    def _rank(self, series: Series) -> dict[str, float]:
        found = (i for i, word in enumerate(self.words) if word.search(series.description))
        thick = math.inf if series.thickness_mm is None else series.thickness_mm
        return {
            "words": next(found, len(self.words)),
            "thickness": thick,
            "slices": -(series.slices or 0),
        }

    def _is_part(self, body_part: str) -> bool:
        letters = _letters(body_part)
        return not letters or not self.body_parts or letters in self.body_parts


@dataclass(frozen=True)
class Choice:
    """What the rules made of a study.

    Attributes:
        series: the one to take.
        rejected: SeriesInstanceUID of every other one, to the rule that it failed.
    """

    series: Series
    rejected: dict[str, str]


def choose(
    rules: Rules, candidates: Sequence[Series], describe: Callable[[Series], Series]
) -> Choice:
    """Take the best series that passes.

    Args:
        rules: what a series must be.
        candidates: what is known of them without looking into them.
        describe: looks into one; asked of those alone that pass so far.

    Raises:
        NoSuitableSeries: none does; its details say why each does not.
    """
    failed: dict[str, str] = {}
    passed: list[Series] = []
    for series in candidates:
        rule = rules.refusal(series)
        if rule is None:
            series = describe(series)
            rule = rules.refusal(series)
        if rule is None:
            passed.append(series)
        else:
            failed[series.uid] = rule
    if not passed:
        told = "; ".join(f"{uid}: {rule}" for uid, rule in failed.items())
        raise NoSuitableSeries(
            f"None of {len(failed)} series passes the rules ({told or 'the study is empty'}). "
            "Name one by its SeriesInstanceUID, or have the rules changed.",
            rejected=rejected_json(failed),
        )
    best = rules.best(passed)
    return Choice(best, failed | {s.uid: LESS_PREFERRED for s in passed if s != best})


def rejected_json(failed: dict[str, str]) -> list[dict[str, str]]:
    """Rejected series as a report lists them."""
    return [{"series": uid, "rule": rule} for uid, rule in failed.items()]


def load_rules(path: Path | None = None) -> Rules:
    """Read the rules; without a path, those that ship.

    Raises:
        BadParameter: no such file, no TOML, an unknown key or a value that cannot be meant.
    """
    path = path or SHIPPED
    try:
        with path.open("rb") as file:
            top = Table(path.name, tomllib.load(file), path.parent)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadParameter(f"{path.name} cannot be read as TOML ({error}).") from error
    require, prefer, synonyms = (
        top.table(name) or Table(f"{path.name} [{name}]", {}, path.parent)
        for name in ("require", "prefer", "synonyms")
    )
    parts = require.words("body_part")
    also = [word for part in parts for word in synonyms.words(part)]
    rules = Rules(
        modalities=require.words("modality"),
        body_parts=frozenset(map(_letters, (*parts, *also))),
        slices=require.range("slices", (2, math.inf)),
        slice_mm=require.range("slice_mm", (0.0, math.inf)),
        axial_within=require.number("axial_within_degrees", 90.0),
        include=_patterns(require, "include"),
        exclude=_patterns(require, "exclude"),
        exclude_kernel=_patterns(require, "exclude_kernel"),
        exclude_image_type=tuple(
            frozenset(words.upper().split()) for words in require.words("exclude_image_type")
        ),
        order=_order(prefer),
        words=_patterns(prefer, "words"),
    )
    for table in (top, require, prefer):
        table.done()
    return rules


def _order(prefer: Table) -> tuple[str, ...]:
    order = prefer.words("order") or ORDERS
    unknown = [word for word in order if word not in ORDERS]
    if unknown:
        raise BadParameter(
            f"[prefer] orders by {unknown[0][:64]!r}; use some of {', '.join(ORDERS)}."
        )
    return order


def _patterns(table: Table, key: str) -> tuple[re.Pattern[str], ...]:
    made = []
    for text in table.words(key):
        try:
            made.append(re.compile(text, re.IGNORECASE))
        except re.error as error:
            raise BadParameter(
                f"{key} holds the broken pattern {text[:64]!r} ({error})."
            ) from error
    return tuple(made)


def _matches(patterns: Iterable[re.Pattern[str]], text: str) -> bool:
    # Underscores and dashes part words in descriptions; to a pattern they are letters.
    spaced = text.replace("_", " ")
    return any(pattern.search(spaced) for pattern in patterns)


def _within(value: float | None, bounds: tuple[float, float]) -> bool:
    return value is None or bounds[0] <= value <= bounds[1]


def _words(series: Series) -> frozenset[str]:
    return frozenset(word for part in series.image_type for word in part.replace("_", " ").split())


def _letters(text: str) -> str:
    return "".join(c for c in text.upper() if c.isalpha())


def _text(header: Dataset, keyword: str) -> str:
    value: Any = header.get(keyword)
    if value is None:
        return ""
    many = not isinstance(value, str) and hasattr(value, "__iter__")
    return "\\".join(map(str, value)) if many else str(value).strip()


def _number(header: Dataset, keyword: str) -> float | None:
    try:
        value = float(header.get(keyword))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _inner(header: Dataset, keyword: str) -> Dataset:
    items = header.get(keyword)
    return items[0] if items else Dataset()


def _tilt(header: Dataset) -> float | None:
    cosines = header.get("ImageOrientationPatient")
    if not cosines or len(cosines) != 6:
        return None
    normal = np.cross(*np.reshape([float(c) for c in cosines], (2, 3)))
    length = float(np.linalg.norm(normal))
    return math.degrees(math.acos(min(1.0, abs(float(normal[2])) / length))) if length else None
