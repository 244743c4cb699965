"""The assessment's figures: curves of robustness, sensitivity by size, Dice against seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.assess.pictures import save
from training.assess.planted import Rate, size_names
from training.assess.robustness import SERIES

# Colour-blind safe (Okabe and Ito), with a marker each for print.
_STYLES = (
    ("#0072B2", "o"),
    ("#E69F00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#D55E00", "v"),
    ("#56B4E9", "P"),
)
_COLUMNS = 3


@dataclass(frozen=True)
class Model:
    """A point of the trade-off: a model's Dice and seconds on the cases that all models share.

    Attributes:
        name: of the model.
        dice: mean over structures, a value a case.
        seconds: CPU seconds of a prediction, a value a case.
    """

    name: str
    dice: tuple[float, ...]
    seconds: tuple[float, ...]


def robustness(
    curves: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], path: Path
) -> None:
    """Small multiples: a panel a change, a line a structure (mean over cases), all cases faint.

    Args:
        curves: of :func:`training.assess.robustness.curves`.
        path: of the PNG.
    """
    rows = -(-len(curves) // _COLUMNS)
    figure = Figure(figsize=(3.6 * _COLUMNS, 2.7 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False).ravel()
    names = list(dict.fromkeys(n for found in curves.values() for n in found))
    for panel, (series, found) in zip(panels, curves.items(), strict=False):
        for name, points in found.items():
            colour, marker = _STYLES[names.index(name) % len(_STYLES)]
            at = list(points)
            panel.plot(at, [np.mean(v) for v in points.values()], color=colour, marker=marker, ms=4)
            for strength, values in points.items():
                panel.plot([strength] * len(values), values, ".", color=colour, alpha=0.3, ms=4)
        panel.set_xlabel(SERIES[series].title, fontsize=8)
        panel.axvline(SERIES[series].none, color="0.8", linewidth=0.8, zorder=0)
        _plain(panel)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    for panel in panels[::_COLUMNS]:
        panel.set_ylabel("Dice", fontsize=8)
    lines = [panels[0].plot([], [], color=c, marker=m)[0] for c, m in _STYLES[: len(names)]]
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    save(figure, path)


def sensitivity(rates: Mapping[str, Mapping[str, Rate]], path: Path) -> None:
    """The part of planted lesions that is found, by size, with Wilson's intervals.

    Args:
        rates: of :func:`training.assess.planted.by_size`.
        path: of the PNG.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    panel = figure.subplots()
    for index, (kind, by_size) in enumerate(rates.items()):
        colour, marker = _STYLES[index % len(_STYLES)]
        there = [(place, by_size[n]) for place, n in enumerate(size_names()) if by_size[n].of]
        at = [place + 0.12 * (index - (len(rates) - 1) / 2) for place, _ in there]
        shares = [rate.share for _, rate in there]
        errors = [
            [rate.share - rate.interval[0] for _, rate in there],
            [rate.interval[1] - rate.share for _, rate in there],
        ]
        panel.errorbar(
            at,
            shares,
            np.clip(errors, 0, None),
            color=colour,
            marker=marker,
            linestyle="",
            capsize=3,
            label=f"{kind.replace('_', ' ')} (n = {by_size['all'].of})",
        )
    panel.set_xticks(range(len(size_names())), size_names())
    panel.set_ylabel("planted lesions found", fontsize=8)
    panel.set_xlabel("diameter of the sphere of equal volume", fontsize=8)
    figure.legend(loc="outside lower center", ncols=len(rates), frameon=False, fontsize=8)
    _plain(panel)
    save(figure, path)


def trade_off(models: Sequence[Model], path: Path) -> None:
    """Dice against CPU seconds: the mean of each model large, its cases small.

    Args:
        models: judged on the same cases, on this machine.
        path: of the PNG.
    """
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    panel = figure.subplots()
    for index, model in enumerate(models):
        colour, marker = _STYLES[index % len(_STYLES)]
        panel.plot(model.seconds, model.dice, marker, color=colour, alpha=0.35, ms=4, linestyle="")
        panel.plot(
            [np.mean(model.seconds)],
            [np.mean(model.dice)],
            marker,
            color=colour,
            ms=10,
            label=model.name,
        )
    panel.set_xlabel("CPU seconds a CT", fontsize=8)
    panel.set_ylabel("mean Dice", fontsize=8)
    panel.set_xlim(left=0)
    panel.legend(frameon=False, fontsize=8)
    _plain(panel)
    save(figure, path)


def _plain(panel: Any) -> None:
    panel.set_ylim(-0.02, 1.02)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
