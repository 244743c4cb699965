"""One model per left-out case: what a handful of labelled CTs can honestly say of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imaging.errors import BadParameter, DataError
from models.onnxfile import read_manifest
from training.cases import Case, load
from training.evaluate import Score, score_case
from training.package import onnx_scorer
from training.recipe import Recipe
from training.runs import MODEL, describe, make_phantoms, train_run


def crossvalidate(
    recipe: Recipe, cases: Sequence[Case], out: Path, only: Sequence[str] = (), **options: Any
) -> list[Score]:
    """Leave each case out in turn, train on the others, score the one left out.

    A model that is already in ``out/<case>`` is scored, not trained again; one that was
    interrupted goes on. No left-out case is used to choose anything: the last weights count.

    Args:
        recipe: what to train.
        cases: at least two.
        out: a folder for all runs.
        only: names of cases; only these are left out in turn.
        options: of :func:`training.fit.fit`.

    Raises:
        BadParameter: ``only`` names no case.
        DataError: ``out`` holds models of another recipe.
    """
    unknown = set(only) - {case.name for case in cases}
    if unknown:
        raise BadParameter(f"There is no case {sorted(unknown)} to leave out.")
    phantoms = None
    scores = []
    for left_out in cases:
        if only and left_out.name not in only:
            continue
        run = out / left_out.name
        if not (run / MODEL).exists():
            phantoms = make_phantoms(recipe) if phantoms is None else phantoms
            others = [case for case in cases if case is not left_out]
            train_run(recipe, others, run, phantoms=phantoms, resume=True, **options)
        elif describe(run).recipe.to_json() != recipe.to_json():
            raise DataError(f"{run} holds a model of other settings; name another folder.")
        manifest = read_manifest(run / MODEL)
        scores += score_case(load(left_out), manifest, onnx_scorer(run / MODEL))
    return scores
