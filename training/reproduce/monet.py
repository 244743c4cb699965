"""MoNet's Table 1, Dice in and out of distribution, with its Tables 2 and 3 below."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from imaging.errors import DataError
from training.cases import Case
from training.datasets import open_dataset
from training.folds import hold_out
from training.recipe import Recipe, Scale
from training.recipes import recipe as named_recipe
from training.reproduce.arms import AnyCase, Cohort, Scores, phantoms, run_arm
from training.reproduce.sizes import sizes_and_times
from training.reproduce.tables import Report, differences, markdown, mean_sd, spread, values

# Knolle et al. 2020, Table 1: name, Dice on data like that of the training and on other data.
NETS: Mapping[str, tuple[str, str, str]] = {
    "monet": ("MoNet", "0.74 ± 0.11", "0.70 ± 0.1"),
    "monet-unet16": ("U-Net-16", "0.67 ± 0.14", "0.59 ± 0.2"),
    "monet-unet64": ("U-Net-64", "0.70 ± 0.15", "0.50 ± 0.2"),
    "monet-attention-unet": ("Attention U-Net", "0.66 ± 0.15", "0.37 ± 0.6"),
}
_BASELINES = [net for net in NETS if net != "monet"]
_PLACES = ("in", "out")
_INSIDE, _OUTSIDE = "a-thin-portal", ("b-thick-portal", "d-arterial-noisy")
_TRAIN, _VALIDATION, _TEST = 12, 2, 8
# What a few hundred steps need: a higher rate, heads that start at the pancreas' rarity, and
# running statistics that keep up with the weights (Keras' momentum forgets in hundreds of steps).
_SHORT_LR, _SHORT_START = 2e-3, {"prior": 0.02, "momentum": 0.1}


def reproduce(
    out: Path,
    scale: Scale,
    seeds: int,
    steps: int | None,
    data: Sequence[Path] = (),
    outside: Sequence[Path] = (),
) -> Report:
    """All four nets, trained alike and judged on data like their own and unlike it.

    Args:
        out: folder of the trainings.
        scale: of the recipes; below ``paper`` the learning rate is 2e-3, the heads start at 2 %
            foreground and batch norm keeps pace with the weights, or so few steps would leave all
            nets where they began.
        seeds: repetitions.
        steps: of each training; the recipe's where ``None``.
        data, outside: real data sets; without any, phantoms of one scanner style to learn from
            and of two others to be judged on.

    Raises:
        DataError: one of both without the other.
    """
    found: dict[str, list[Scores]] = {net: [] for net in NETS}
    for seed in range(seeds):
        cohort = functools.cache(
            functools.partial(_real, data, outside, seed)
            if data or outside
            else functools.partial(_phantoms, seed)
        )
        for net in NETS:
            recipe = _short(named_recipe(net, scale), steps, seed)
            found[net].append(run_arm(recipe, cohort, out / f"{net}-{seed}"))
    return _report(found, recipe, seeds, real=bool(data))


def _short(recipe: Recipe, steps: int | None, seed: int) -> Recipe:
    recipe = dataclasses.replace(recipe, seed=seed)
    if steps is not None:
        epoch = max(1, min(recipe.steps_per_epoch, steps // 5))
        recipe = dataclasses.replace(recipe, steps=steps, steps_per_epoch=epoch)
    if recipe.scale == "paper":
        return recipe
    rate = dataclasses.replace(recipe.optimizer, lr=_SHORT_LR)
    return dataclasses.replace(recipe, optimizer=rate, options=recipe.options | _SHORT_START)


def _phantoms(seed: int) -> Cohort:
    """96 pixels a side: what the phantom is drawn with costs more than the nets."""
    shape, first = (56, 96, 96), 10_000 * (seed + 1)
    train = phantoms(_TRAIN + _VALIDATION, first, [_INSIDE], shape=shape)
    inside = phantoms(_TEST, first + 5000, [_INSIDE], shape=shape)
    outside = phantoms(_TEST, first + 7000, _OUTSIDE, shape=shape)
    return Cohort(train[:_TRAIN], {"in": inside, "out": outside}, train[_TRAIN:])


def _real(data: Sequence[Path], outside: Sequence[Path], seed: int) -> Cohort:
    """The paper's 70/30, and of the first a tenth to choose by, as its loader splits."""
    if not (data and outside):
        raise DataError("Real data needs both --data and --outside.")
    cases = {c.name: c for folder in data for c in open_dataset(folder)}
    kept, test = hold_out(list(cases), 0.3, seed)
    train, validation = hold_out(kept, 0.1, seed)
    other: list[Case] = [c for folder in outside for c in open_dataset(folder)]

    def named(names: Sequence[str]) -> list[AnyCase]:
        return [cases[name] for name in names]

    return Cohort(named(train), {"in": named(test), "out": other}, named(validation))


def _report(found: Mapping[str, list[Scores]], recipe: Recipe, seeds: int, real: bool) -> Report:
    dice = {
        net: {p: [v for s in runs for v in values(s[p], "pancreas")] for p in _PLACES}
        for net, runs in found.items()
    }
    rows = [
        [name, inside, mean_sd(dice[net]["in"]), outside, mean_sd(dice[net]["out"])]
        for net, (name, inside, outside) in NETS.items()
    ]
    what = (
        f"Phantoms, not patients: {_TRAIN} of one scanner to train, {_TEST} of it and {_TEST} of "
        "two others to test"
    )
    text = "\n\n".join(
        [
            f"{'Real data' if real else what}; {seeds} seeds, up to {recipe.steps} steps at scale "
            f"{recipe.scale}. Dice of the pancreas with its tumor, whole scans.",
            markdown(["", "in, paper", "in, ours", "out, paper", "out, ours"], rows),
            "Differences, paired over cases and seeds:",
            differences(_pairs(dice, real)),
            sizes_and_times(),
        ]
    )
    bars = {p: {NETS[net][0]: spread(dice[net][p]) for net in NETS} for p in _PLACES}
    return Report(text, bars)


def _pairs(
    dice: Mapping[str, Mapping[str, list[float]]], real: bool
) -> list[tuple[str, list[float], list[float]]]:
    """MoNet against each baseline in both places; on phantoms also what each loses outside."""
    pairs = [
        (f"MoNet - {NETS[net][0]}, {place}", dice["monet"][place], dice[net][place])
        for net in _BASELINES
        for place in _PLACES
    ]
    if not real:
        lost = {n: np.subtract(d["in"], d["out"]).tolist() for n, d in dice.items()}
        pairs += [(f"{NETS[n][0]}'s loss - MoNet's", lost[n], lost["monet"]) for n in _BASELINES]
    return pairs
