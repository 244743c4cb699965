"""SegViz's pooling of partly labelled sets: what is unlabelled taken as unknown or background."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from training.recipe import Loss, Optimizer, Recipe
from training.recipes import recipe as named_recipe
from training.reproduce.arms import Cohort, Scores, phantoms, run_arm
from training.reproduce.tables import Report, differences, markdown, mean_sd, spread, values

# SegViz, pooled in one place with absent taken as background, on BTCV (its table).
_PAPER = {"liver": 0.65, "spleen": 0.0, "pancreas": 0.55, "kidney": 0.68}
_ARMS = ("unknown", "background")
_TRAIN, _TEST = 16, 8


def reproduce(out: Path, seeds: int, steps: int | None) -> Report:
    """Four sites that label one organ each, pooled, with two ways to take what is unlabelled.

    The network is SegViz's made small. Its training is too: the log-Dice loss and 5e-3 stand for
    its Dice and 1e-4, which learn nothing in so few steps; both arms share everything but the
    meaning of an unlabelled voxel.

    Args:
        out: folder of the trainings.
        seeds: repetitions, each with other weights and other phantoms.
        steps: of each training.
    """
    small = dataclasses.replace(
        named_recipe("segviz", "tiny"),
        steps=steps or 400,
        steps_per_epoch=50,
        optimizer=Optimizer("adamw", 5e-3, "cosine"),
    )
    found: dict[str, list[Scores]] = {arm: [] for arm in _ARMS}
    for seed in range(seeds):
        cohort = functools.cache(functools.partial(_cohort, small.outputs, seed))
        for arm in _ARMS:
            loss = Loss("dice_ce", log_dice=True, smooth=5.0, unlabelled=arm)
            recipe = dataclasses.replace(small, loss=loss, seed=seed)
            found[arm].append(run_arm(recipe, cohort, out / f"{arm}-{seed}"))
    return _report(found, small, seeds)


def _cohort(organs: tuple[str, ...], seed: int) -> Cohort:
    spacing = (6.0, 6.0, 6.0)
    sites = [(organ,) for organ in organs]
    styles = ("a-thin-portal", "b-thick-portal", "e-late-sharp")
    first = 10_000 * (seed + 1)
    train = phantoms(_TRAIN, first, styles, structures=sites, spacing_mm=spacing)
    test = phantoms(_TEST, first + 5000, styles, spacing_mm=spacing)
    return Cohort(train, {"phantoms": test})


def _report(found: dict[str, list[Scores]], recipe: Recipe, seeds: int) -> Report:
    organs = recipe.outputs
    by_organ = {
        arm: {o: [v for s in runs for v in values(s["phantoms"], o)] for o in organs}
        for arm, runs in found.items()
    }
    rows = [["paper: pooled, background", *(f"{_PAPER[o]:.2f}" for o in organs)]]
    rows += [
        [f"ours: unlabelled is {arm}", *(mean_sd(by_organ[arm][o]) for o in organs)]
        for arm in _ARMS
    ]
    pairs = [(o, by_organ["unknown"][o], by_organ["background"][o]) for o in organs]
    every = [np.mean([by_organ[arm][o] for o in organs], axis=0).tolist() for arm in _ARMS]
    pairs.append(("all four", every[0], every[1]))
    text = "\n\n".join(
        [
            f"Phantoms, not patients: {_TRAIN} to train on, each labelled for one organ, {_TEST} "
            f"to test, {seeds} seeds, {recipe.steps} steps each. Dice.",
            markdown(["", *organs], rows),
            "Unknown minus background, paired over cases and seeds:",
            differences(pairs),
        ]
    )
    return Report(text, {o: {a: spread(by_organ[a][o]) for a in _ARMS} for o in organs})
