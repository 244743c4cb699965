"""Scores of a model on labelled cases, at full resolution and through serving's own prediction."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest
from models.predict import predict
from models.scorer import Scorer
from training.cases import Case, Loaded, load
from training.metrics import dice, judgeable, mask_of, scorable, volume_error_ml
from training.surfaces import (
    KITS21_TOLERANCES_MM,
    average_surface_distance,
    hausdorff95,
    surface_dice,
)

# What TotalSegmentator is published with; KiTS21's classes have their own.
_TOLERANCE_MM = 3.0


@dataclass(frozen=True)
class Score:
    """How well one structure (an organ with its lesions) is found in one case, on the CT's grid.

    Attributes:
        case, structure: names.
        dice: 1 where both masks are empty, 0 where one is.
        volume_error_ml: predicted minus true.
        surface_dice: the part of both surfaces within the tolerance of the other; ``None`` where
            surfaces were not asked for.
        hd95_mm: 95th percentile Hausdorff distance; ``None`` also where one mask is empty.
        asd_mm: average surface distance, likewise.
    """

    case: str
    structure: str
    dice: float
    volume_error_ml: float = 0.0
    surface_dice: float | None = None
    hd95_mm: float | None = None
    asd_mm: float | None = None


def score_case(
    case: Loaded,
    manifest: Manifest,
    scorer: Scorer,
    surfaces: bool = False,
    masks: Sequence[str] = (),
    finder: Scorer | None = None,
) -> list[Score]:
    """Predict one case and score what its labels can judge, where they say something.

    Args:
        case: with its labels.
        manifest, scorer: of the model.
        surfaces: also surface Dice and Hausdorff distance, which take seconds a structure.
        masks: structures or groups to score, by default the model's structures.
        finder: of the model.
    """
    labels = predict(case.image, manifest, scorer, finder=finder).labels.array
    predicted = judgeable(labels, case.labels.array)
    spacing = case.image.geometry.spacing
    found = []
    for name in masks or scorable(manifest.outputs, case.annotated):
        both = mask_of(predicted, name), mask_of(case.labels.array, name)
        score = Score(case.name, name, dice(*both), volume_error_ml(*both, spacing))
        found.append(_with_surfaces(score, *both, spacing) if surfaces else score)
    return found


def evaluate(
    cases: Iterable[Case],
    manifest: Manifest,
    scorer: Scorer,
    surfaces: bool = False,
    finder: Scorer | None = None,
) -> list[Score]:
    """Scores of every case."""
    return [
        score
        for case in cases
        for score in score_case(load(case), manifest, scorer, surfaces, finder=finder)
    ]


def table(scores: Sequence[Score], field: str = "dice") -> str:
    """A Markdown table: a row a case, a column a structure, means in the last row.

    Args:
        scores: of any cases and structures.
        field: of :class:`Score`.
    """
    cases = list(dict.fromkeys(s.case for s in scores))
    names = list(dict.fromkeys(s.structure for s in scores))
    values = {(s.case, s.structure): getattr(s, field) for s in scores}
    lines = [
        "| case | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for case in cases:
        lines.append(
            f"| {case} | " + " | ".join(_cell(values.get((case, n))) for n in names) + " |"
        )
    means = [_mean([values.get((c, n)) for c in cases]) for n in names]
    lines.append("| **mean** | " + " | ".join(_cell(m) for m in means) + " |")
    return "\n".join(lines)


def as_csv(scores: Sequence[Score]) -> str:
    """The scores as CSV: a header, a line for each case and structure; empty where unknown."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in dataclasses.fields(Score)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(score) for score in scores)
    return out.getvalue()


def _with_surfaces(
    score: Score,
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing: tuple[float, float, float],
) -> Score:
    tolerance = KITS21_TOLERANCES_MM.get(score.structure, _TOLERANCE_MM)
    distances = (
        measure(predicted, truth, spacing) for measure in (hausdorff95, average_surface_distance)
    )
    hd95, asd = (distance if math.isfinite(distance) else None for distance in distances)
    within = surface_dice(predicted, truth, spacing, tolerance)
    return dataclasses.replace(score, surface_dice=within, hd95_mm=hd95, asd_mm=asd)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
