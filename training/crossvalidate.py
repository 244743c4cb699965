"""Models that leave some cases out in turn: what labelled CTs can honestly say of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imaging.errors import BadParameter, DataError
from models.onnxfile import read_manifest
from training.cases import Case, load
from training.evaluate import Score, score_case
from training.folds import folds
from training.package import onnx_scorer
from training.prepared import Prepared
from training.recipe import Recipe
from training.runs import CACHE, DESCRIPTION, describe, make_phantoms, models_of, train_run
from training.world import processes


def crossvalidate(
    recipe: Recipe,
    cases: Sequence[Case],
    out: Path,
    count: int = 0,
    only: Sequence[str] = (),
    **options: Any,
) -> list[Score]:
    """Leave each part out in turn, train on the others, score the one left out.

    Cases of one patient are left out together; where one of them has the patient's own name, the
    others are copies made of it and are not scored.

    A model that is already in ``out/<part>`` is scored, not trained again; one that was
    interrupted goes on. No left-out case is used to choose anything: the last weights count.

    Args:
        recipe: what to train.
        cases: at least two.
        out: a folder for all runs; prepared cases are shared by them.
        count: number of folds, named ``fold-1`` and so on; 0 leaves out one patient at a time, and
            the run has the patient's name, or that of the only case.
        only: names of parts; only these are left out in turn.
        options: of :func:`training.runs.train_run`.

    Raises:
        BadParameter: ``only`` names no part, there are too few cases, or torchrun started several
            processes.
        DataError: ``out`` holds models of another recipe.
    """
    if len({case.group for case in cases}) < 2:
        raise BadParameter(
            f"{len(cases)} cases of one patient cannot be left out in turn; name more with --data."
        )
    if processes() > 1:
        raise BadParameter(
            "Cross-validation is one process; give it the GPU of your choice, or train each part "
            "with torchrun."
        )
    parts = _parts(cases, count, recipe.seed)
    unknown = set(only) - set(parts)
    if unknown:
        raise BadParameter(f"There is no case {sorted(unknown)} to leave out.")
    phantoms: Sequence[Prepared] | None = None
    scores = []
    for name, left_out in parts.items():
        if only and name not in only:
            continue
        run = out / name
        if not ((run / DESCRIPTION).exists() and models_of(run)):
            if phantoms is None:
                phantoms = () if recipe.parts else make_phantoms(recipe)
            others = [case for case in cases if case not in left_out]
            settings: dict[str, Any] = {"cache": out / CACHE, "resume": True} | options
            train_run(recipe, others, run, phantoms=phantoms, **settings)
        elif describe(run).recipe.to_json() != recipe.to_json():
            raise DataError(f"{run} holds a model of other settings; name another folder.")
        scores += _scores(run, _scored(left_out))
    return scores


def _parts(cases: Sequence[Case], count: int, seed: int) -> dict[str, list[Case]]:
    groups = {case.name: case.group for case in cases}
    if not count:
        return {g: [case for case in cases if case.group == g] for g in groups.values()}
    names = folds([case.name for case in cases], count, seed, groups)
    return {
        f"fold-{index}": [case for case in cases if case.name in part]
        for index, part in enumerate(names, 1)
    }


def _scored(cases: Sequence[Case]) -> list[Case]:
    """The cases that are no copies of another one."""
    names = {case.name for case in cases}
    return [case for case in cases if case.name == case.group or case.group not in names]


def _scores(run: Path, cases: Sequence[Case]) -> list[Score]:
    """Of every model of a run: one, or one for each task."""
    found = []
    loaded = [load(case) for case in cases]
    for path in models_of(run):
        manifest, scorer = read_manifest(path), onnx_scorer(path)
        found += [score for case in loaded for score in score_case(case, manifest, scorer)]
    return found
