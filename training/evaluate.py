"""Scores of a model on labelled cases, at full resolution and through serving's own prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from models.manifest import Manifest
from models.predict import Scorer, predict
from training.cases import Case, Loaded, load
from training.metrics import dice_by_mask, scorable


@dataclass(frozen=True)
class Score:
    """Dice of one structure (an organ with its lesions) in one case, on the CT's own grid."""

    case: str
    structure: str
    dice: float


def score_case(case: Loaded, manifest: Manifest, scorer: Scorer) -> list[Score]:
    """Predict one case and score what its labels can judge."""
    predicted = predict(case.image, manifest, scorer)
    names = scorable(manifest.outputs, case.annotated)
    found = dice_by_mask(predicted.array, case.labels.array, names)
    return [Score(case.name, name, value) for name, value in found.items()]


def evaluate(cases: Iterable[Case], manifest: Manifest, scorer: Scorer) -> list[Score]:
    """Scores of every case."""
    return [score for case in cases for score in score_case(load(case), manifest, scorer)]


def table(scores: Sequence[Score]) -> str:
    """A Markdown table: a row a case, a column a structure, means in the last row."""
    cases = list(dict.fromkeys(s.case for s in scores))
    names = list(dict.fromkeys(s.structure for s in scores))
    values = {(s.case, s.structure): s.dice for s in scores}
    lines = [
        "| case | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for case in cases:
        lines.append(
            f"| {case} | " + " | ".join(_cell(values.get((case, n))) for n in names) + " |"
        )
    means = [float(np.mean([values[c, n] for c in cases if (c, n) in values])) for n in names]
    lines.append("| **mean** | " + " | ".join(_cell(m) for m in means) + " |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
