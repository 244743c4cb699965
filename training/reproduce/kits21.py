"""The KiTS21 paper's table: transfer from DoDNet's pretraining against training from scratch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from imaging.errors import DataError
from imaging.read import read_volume
from models.manifest import Manifest
from models.predict import predict
from models.scorer import Scorer
from training.cases import Case
from training.datasets import open_dataset
from training.evaluate import Score, score_case
from training.kits_groups import annotation_files, sampled_segmentations, score_groups
from training.package import structures_of
from training.pretraining import start_from
from training.recipe import Optimizer, Recipe, Scale
from training.recipes import recipe as named_recipe
from training.reproduce.arms import AnyCase, Cohort, Scores, in_memory, phantoms, run_arm
from training.reproduce.tables import Report, differences, markdown, mean_sd, spread, values

HECS = {"kidney": "kidney and masses", "kidney_masses": "masses", "kidney_tumor": "tumor"}
# kits21-transfer, Table 1: Dice, then surface Dice, in the order of HECS.
_PAPER = {
    "paper: nnU-Net": ("0.9405", "0.7454", "0.7162", "0.8898", "0.6026", "0.5821"),
    "paper: transfer": ("0.9513", "0.7953", "0.7663", "0.9178", "0.6901", "0.6592"),
}
# A case of KiTS21 with all its annotators' masks has them here.
ANNOTATIONS = "segmentations"
_ARMS = ("kits21-transfer", "kits21-scratch")
# Structure and field of a score, and what the table calls it.
_COLUMNS = {
    (hec, field): f"{short} {name}"
    for field, short in (("dice", "Dice"), ("surface_dice", "SD"))
    for hec, name in HECS.items()
}
_SITES, _TRAIN, _TEST = 14, 6, 8
# Below the paper's scale: SGD and 1 - Dice leave a net at the background for thousands of steps.
_SHORT_OPTIMIZER, _SHORT_SMOOTH = Optimizer("adamw", 5e-3, "cosine"), 5.0
_STYLES = ("a-thin-portal", "b-thick-portal", "e-late-sharp")


def reproduce(
    out: Path, scale: Scale, seeds: int, steps: int | None, data: Sequence[Path] = ()
) -> Report:
    """Pretrain on partly labelled sets, then train the same network twice for equal steps.

    Args:
        out: folder of the trainings.
        scale: of the recipes. Below ``paper`` all arms train with AdamW at 5e-3 by cosine and the
            logarithm of Dice in place of SGD and 1 - Dice.
        seeds: repetitions, each with other weights and, on phantoms, other patients.
        steps: of each training, the pretraining's included; the recipes' where ``None``.
        data: real data sets. Those that label kidneys, tumors and cysts are KiTS: numbers that 5
            divides are the test, as MOTS has them. The others are for the pretraining, with KiTS'
            own training cases. Without any, phantoms.

    Raises:
        DataError: no case to train on or none to test on.
    """
    found: dict[str, list[Scores]] = {arm: [] for arm in _ARMS}
    recipes = {name: _short(name, scale, steps) for name in (*_ARMS, "mots-kits21")}
    for seed in range(seeds):
        seeded = {n: dataclasses.replace(r, seed=seed) for n, r in recipes.items()}
        for arm, scores in _repetition(seeded, seed, out, data).items():
            found[arm].append(scores)
    return _report(found, recipes, seeds, real=bool(data))


def _repetition(
    recipes: Mapping[str, Recipe], seed: int, out: Path, data: Sequence[Path]
) -> dict[str, Scores]:
    """One pretraining, and both arms after it."""

    @functools.cache
    def cases() -> tuple[Sequence[AnyCase], Cohort]:
        return _real(data) if data else _phantoms(recipes["mots-kits21"], seed)

    def pretrained() -> dict[str, Tensor]:
        return start_from(recipes["kits21-transfer"], before).state

    before = out / f"pretraining-{seed}"
    run_arm(recipes["mots-kits21"], lambda: Cohort(cases()[0]), before)
    return {
        arm: run_arm(
            recipes[arm],
            lambda: cases()[1],
            out / f"{arm}-{seed}",
            initial=pretrained if recipes[arm].pretrain else None,
            judge=_hecs,
        )
        for arm in _ARMS
    }


def _short(name: str, scale: Scale, steps: int | None) -> Recipe:
    """The recipe; below the paper's scale with what lets a few hundred steps learn at all."""
    recipe = named_recipe(name, scale)
    if steps is not None:
        epoch = min(steps, recipe.steps_per_epoch)
        recipe = dataclasses.replace(recipe, steps=steps, steps_per_epoch=epoch)
    if scale == "paper":
        return recipe
    loss = dataclasses.replace(recipe.loss, log_dice=True, smooth=_SHORT_SMOOTH)
    return dataclasses.replace(recipe, loss=loss, optimizer=_SHORT_OPTIMIZER)


def _phantoms(before: Recipe, seed: int) -> tuple[Sequence[AnyCase], Cohort]:
    """Sites that label one task each, and a set like KiTS from other patients."""
    z, y, x = (float(s) for s in before.sampling.spacing_mm if s is not None)
    tasks = [structures_of(before, index) for index in range(len(before.tasks))]
    first = 100_000 * (seed + 1)
    sites = phantoms(_SITES, first, _STYLES, structures=tasks, spacing_mm=(z, y, x), tumors=True)
    kits = [("kidney", "kidney_tumor", "kidney_cyst")]
    train, test = (
        phantoms(count, start, _STYLES, structures=kits, spacing_mm=(z, y, x), tumors=True)
        for count, start in ((_TRAIN, first + 5000), (_TEST, first + 9000))
    )
    return sites, Cohort(train, {"test": test})


def _real(data: Sequence[Path]) -> tuple[Sequence[AnyCase], Cohort]:
    cases = [case for folder in data for case in open_dataset(folder)]
    kits = [c for c in cases if {"kidney", "kidney_tumor", "kidney_cyst"} <= set(c.annotated)]
    test = [c for c in kits if _number(c) % 5 == 0]
    train = [c for c in kits if _number(c) % 5]
    if not train or not test:
        raise DataError(
            f"{[str(d) for d in data]} hold {len(train)} cases of KiTS21 to train on and "
            f"{len(test)} to test; name a folder with both."
        )
    return [c for c in cases if c not in test], Cohort(train, {"test": test})


def _hecs(case: AnyCase, manifest: Manifest, scorer: Scorer) -> list[Score]:
    """Dice and surface Dice of the three classes; over KiTS21's sampled groups where they are."""
    read = in_memory(case)
    if not isinstance(case, Case) or not (case.image.parent / ANNOTATIONS).is_dir():
        return score_case(read, manifest, scorer, surfaces=True, masks=tuple(HECS))
    predicted = predict(read.image, manifest, scorer).labels

    @functools.cache
    def mask(path: Path) -> NDArray[np.bool_]:
        return read_volume(path).array > 0

    samples = sampled_segmentations(annotation_files(case.image.parent), mask)
    found = score_groups(predicted.array, samples, predicted.geometry.spacing)
    return [
        Score(case.name, hec, one.dice, surface_dice=one.surface_dice) for hec, one in found.items()
    ]


def _number(case: Case) -> int:
    digits = "".join(ch for ch in case.name if ch.isdigit())
    return int(digits or 0)


def _report(
    found: Mapping[str, list[Scores]], recipes: Mapping[str, Recipe], seeds: int, real: bool
) -> Report:
    scores = {
        arm: {c: [v for run in runs for v in values(run["test"], *c)] for c in _COLUMNS}
        for arm, runs in found.items()
    }
    rows = [[name, *cells] for name, cells in _PAPER.items()]
    rows += [[f"ours: {a}", *(mean_sd(scores[a][c]) for c in _COLUMNS)] for a in _ARMS]
    pairs = [(name, scores[_ARMS[0]][c], scores[_ARMS[1]][c]) for c, name in _COLUMNS.items()]
    what = f"Phantoms, not patients: {_SITES} to pretrain, {_TRAIN} to train, {_TEST} to test"
    one = recipes[_ARMS[1]]
    text = "\n\n".join(
        [
            f"{'Real data' if real else what}; {seeds} seeds. Scale {one.scale}: "
            f"{recipes['mots-kits21'].steps} steps of pretraining, then {one.steps} each.",
            markdown(["", *_COLUMNS.values()], rows),
            "Transfer minus from scratch, paired over cases and seeds:",
            differences(pairs),
        ]
    )
    return Report(text, {n: {a: spread(scores[a][c]) for a in _ARMS} for c, n in _COLUMNS.items()})
