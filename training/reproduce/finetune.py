"""Fine-tuning on three cases of a new scanner against training on them from scratch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from training.pretraining import fine_tuned, start_from
from training.recipe import Recipe, Scale
from training.recipes import recipe as named_recipe
from training.reproduce.arms import Cohort, Scores, phantoms, run_arm
from training.reproduce.tables import Report, differences, markdown, mean_sd, spread, values

ORGANS = ("pancreas", "kidney", "liver", "spleen")
# What the model to start from was trained on, and the hospital that it comes to.
_BEFORE, _NEW = ("a-thin-portal", "b-thick-portal", "e-late-sharp"), ("c-noncontrast",)
_SITES, _TRAIN, _TEST = 12, 3, 5
_TINY_STEPS = 400
_NAMES = {
    "base": "the model as it was",
    "scratch": "from scratch, equal steps",
    "finetuned": "fine-tuned",
}


def reproduce(out: Path, scale: Scale, seeds: int, steps: int | None) -> Report:
    """Train a model, then go on from it and begin anew for equal steps on three other cases.

    The fine-tuning is that of ``islet train --from``; from scratch the recipe's own rate holds,
    which is what it was chosen for.

    Args:
        out: folder of the trainings.
        scale: of the recipe ``starter-organs``; at ``tiny`` its rate is 5e-3 and its Dice less
            smooth, with which organs are learned within hundreds of steps.
        seeds: repetitions, each with other weights and other phantoms.
        steps: of the model to start from; what comes after is shortened alike. Where ``None`` the
            recipe's, at scale ``tiny`` 400.
    """
    usual = _short(scale, steps)
    found: dict[str, list[Scores]] = {arm: [] for arm in _NAMES}
    for seed in range(seeds):
        repetition = _repetition(dataclasses.replace(usual, seed=seed), out)
        for arm, scores in repetition.items():
            found[arm].append(scores)
    return _report(found, usual, seeds)


def _short(scale: Scale, steps: int | None) -> Recipe:
    """The starter's recipe without phantoms of its own."""
    recipe = dataclasses.replace(named_recipe("starter-organs", scale), phantoms=0, plant=0.0)
    if scale == "tiny":
        recipe = dataclasses.replace(
            recipe,
            steps=_TINY_STEPS,
            optimizer=dataclasses.replace(recipe.optimizer, lr=5e-3),
            loss=dataclasses.replace(recipe.loss, smooth=5.0),
        )
    steps = steps or recipe.steps
    epoch = min(steps, recipe.steps_per_epoch)
    return dataclasses.replace(recipe, steps=steps, steps_per_epoch=epoch)


def _repetition(base: Recipe, out: Path) -> dict[str, Scores]:
    """A model and its two successors."""
    cohorts = functools.cache(functools.partial(_cohorts, base))
    tuned = fine_tuned(base)
    scratch = dataclasses.replace(tuned, optimizer=base.optimizer)
    before = out / f"base-{base.seed}"

    def initial() -> Mapping[str, Tensor]:
        return start_from(tuned, before).state

    return {
        "base": run_arm(base, lambda: cohorts()[0], before),
        "scratch": run_arm(scratch, lambda: cohorts()[1], out / f"scratch-{base.seed}"),
        "finetuned": run_arm(
            tuned, lambda: cohorts()[1], out / f"finetuned-{base.seed}", initial=initial
        ),
    }


def _cohorts(recipe: Recipe) -> tuple[Cohort, Cohort]:
    """Of the model to start from and of the new hospital; both are judged by the latter's."""
    z, y, x = (float(s) for s in recipe.sampling.spacing_mm if s is not None)
    first = 30_000 * (recipe.seed + 1)
    sites = phantoms(_SITES, first, _BEFORE, spacing_mm=(z, y, x))
    train = phantoms(_TRAIN, first + 5000, _NEW, spacing_mm=(z, y, x))
    tests = {"new": phantoms(_TEST, first + 9000, _NEW, spacing_mm=(z, y, x))}
    return Cohort(sites, tests), Cohort(train, tests)


def _report(found: Mapping[str, list[Scores]], recipe: Recipe, seeds: int) -> Report:
    dice = {
        arm: {o: [v for s in runs for v in values(s["new"], o)] for o in ORGANS}
        for arm, runs in found.items()
    }
    for by_organ in dice.values():
        by_organ["mean"] = np.mean([by_organ[o] for o in ORGANS], axis=0).tolist()
    columns = (*ORGANS, "mean")
    rows = [[name, *(mean_sd(dice[arm][c]) for c in columns)] for arm, name in _NAMES.items()]
    tuned = dice["finetuned"]
    against = [
        differences([(c, tuned[c], dice[other][c]) for c in columns])
        for other in ("scratch", "base")
    ]
    text = "\n\n".join(
        [
            f"Phantoms, not patients: {_SITES} of three scanners with contrast to begin with, "
            f"then {_TRAIN} without to train on and {_TEST} to test; {seeds} seeds. Scale "
            f"{recipe.scale}: {recipe.steps} steps, then {fine_tuned(recipe).steps} each. Dice.",
            markdown(["", *columns], rows),
            "Fine-tuned minus from scratch, paired over cases and seeds:",
            against[0],
            "Fine-tuned minus the model as it was:",
            against[1],
        ]
    )
    bars = {c: {_NAMES[arm]: spread(dice[arm][c]) for arm in _NAMES} for c in columns}
    return Report(text, bars)
