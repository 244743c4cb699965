"""Scores of the untouched CTs: Dice, surface Dice at 2 mm, volumes, seconds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from training.assess.subjects import Bench
from training.evaluate import Score
from training.metrics import dice, judgeable, mask_of, scorable, volume_error_ml
from training.surfaces import surface_dice

# For all structures alike, so that they can be compared; KiTS21's own tolerances are half of it.
TOLERANCE_MM = 2.0


def measure(bench: Bench, asked: Sequence[str] = ()) -> dict[str, Any]:
    """One case's scores and what its prediction took.

    Args:
        bench: the case and its model.
        asked: structures to score; all that the model gives and the case annotates where empty.

    Returns:
        ``scores`` (fields of :class:`training.evaluate.Score` and ``truth_ml``), ``seconds``
        (``wall``, ``cpu``), ``shape`` and ``spacing_mm`` (Z, Y, X) of the CT.
    """
    labels, seconds = bench.untouched
    truth, grid = bench.loaded.labels.array, bench.loaded.image.geometry
    predicted = judgeable(labels, truth)
    scores = []
    for name in judged(bench, asked):
        both = mask_of(predicted, name), mask_of(truth, name)
        score = Score(
            bench.loaded.name,
            name,
            dice(*both),
            volume_error_ml(*both, grid.spacing),
            surface_dice(*both, grid.spacing, TOLERANCE_MM),
        )
        truth_ml = int(np.count_nonzero(both[1])) * math.prod(grid.spacing) / 1000
        scores.append({**dataclasses.asdict(score), "truth_ml": truth_ml})
    return {
        "scores": scores,
        "seconds": dataclasses.asdict(seconds),
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing),
    }


def judged(bench: Bench, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """The structures of a case that its labels can judge the model by, and were asked for."""
    found = scorable(bench.subject.manifest.outputs, bench.loaded.annotated)
    return tuple(name for name in found if not asked or name in asked)


def scores_of(figures: dict[str, Any]) -> list[Score]:
    """The scores that :func:`measure` gave for several cases, by case."""
    known = {field.name for field in dataclasses.fields(Score)}
    return [
        Score(**{name: value for name, value in score.items() if name in known})
        for case in figures.values()
        for score in case["scores"]
    ]
