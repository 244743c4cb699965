"""One training of an experiment and its scores, kept so that nothing is trained twice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from imaging.errors import DataError
from imaging.files import write_whole
from models.manifest import Manifest
from models.scorer import Scorer
from training.cache import cached
from training.cases import Case, Loaded, load
from training.evaluate import Score, score_case
from training.fit import fit
from training.package import manifest_of, torch_scorer
from training.phantoms import ANNOTATED, make_phantom
from training.prepared import Prepared, prepare
from training.recipe import Recipe
from training.runs import CACHE

SCORES = "scores.json"

AnyCase = Case | Loaded
Judge = Callable[[AnyCase, Manifest, Scorer], list[Score]]
# Scores of the cases of every test set, by the set's name.
Scores = dict[str, list[Score]]


@dataclass(frozen=True, eq=False)
class Cohort:
    """What an arm learns from and is judged by.

    Cases in memory are phantoms; those on disk are read one at a time, and prepared ones cached.

    Attributes:
        train, validation: to learn from and to choose by.
        tests: by name, never seen in training.
    """

    train: Sequence[AnyCase]
    tests: Mapping[str, Sequence[AnyCase]] = field(default_factory=dict)
    validation: Sequence[AnyCase] = ()


def run_arm(
    recipe: Recipe,
    made: Callable[[], Cohort],
    out: Path,
    *,
    initial: Callable[[], Mapping[str, Tensor]] | None = None,
    judge: Judge | None = None,
) -> Scores:
    """Train a recipe and score it on every test set; read the scores where they are there.

    Args:
        recipe: with the seed of this repetition.
        made: gives its cases; not called where there are scores.
        out: the arm's folder. A training that was stopped there goes on.
        initial: makes the state to start from.
        judge: scores one case; Dice of the model's structures where ``None``.

    Raises:
        DataError: the folder holds the scores of another recipe.
    """
    if (out / SCORES).exists():
        return _read(recipe, out)
    cohort = made()
    fitted = fit(
        recipe,
        [_prepared(case, recipe, out) for case in cohort.train],
        out,
        validation=[_prepared(case, recipe, out) for case in cohort.validation],
        initial=initial() if initial else None,
        resume=True,
    )
    manifest, scorer = manifest_of(recipe), torch_scorer(fitted.network)
    judge = judge or _dice
    scores = {
        name: [score for case in cases for score in judge(case, manifest, scorer)]
        for name, cases in cohort.tests.items()
    }
    _write(recipe, scores, out)
    return scores


def in_memory(case: AnyCase) -> Loaded:
    """A case with its voxels."""
    return load(case) if isinstance(case, Case) else case


def phantoms(
    count: int,
    first_seed: int,
    styles: Sequence[str],
    *,
    structures: Sequence[tuple[str, ...]] = (ANNOTATED,),
    spacing_mm: tuple[float, float, float] | None = None,
    shape: tuple[int, int, int] | None = None,
    tumors: bool | None = None,
) -> list[Loaded]:
    """Phantoms whose styles and annotated structures take turns.

    Args:
        count: how many.
        first_seed: of the first; the others follow.
        styles: of ``training.phantoms.STYLES``.
        structures: what the labels of one phantom name.
        spacing_mm, shape, tumors: as in :func:`training.phantoms.make_phantom`.
    """
    made = []
    for index in range(count):
        style = styles[index % len(styles)]
        phantom = make_phantom(
            first_seed + index,
            style,
            tumors=tumors,
            shape=shape,
            spacing_mm=spacing_mm,
            structures=structures[index % len(structures)],
        )
        name = f"phantom-{first_seed + index}-{style}"
        made.append(Loaded(name, phantom.volume, phantom.labels, phantom.annotated))
    return made


def _dice(case: AnyCase, manifest: Manifest, scorer: Scorer) -> list[Score]:
    return score_case(in_memory(case), manifest, scorer)


def _prepared(case: AnyCase, recipe: Recipe, out: Path) -> Prepared:
    if isinstance(case, Case):
        return cached(case, recipe, out.parent / CACHE)
    return prepare(case, recipe)


def _write(recipe: Recipe, scores: Scores, out: Path) -> None:
    raw = {
        "recipe": json.loads(recipe.to_json()),
        "scores": {name: [dataclasses.asdict(s) for s in found] for name, found in scores.items()},
    }
    write_whole(out / SCORES, json.dumps(raw, indent=1).encode())


def _read(recipe: Recipe, out: Path) -> Scores:
    raw = json.loads((out / SCORES).read_text(encoding="utf-8"))
    if Recipe.from_json(json.dumps(raw["recipe"])) != recipe:
        raise DataError(f"{out} holds scores of other settings; name another folder with --out.")
    return {name: [Score(**s) for s in found] for name, found in raw["scores"].items()}
