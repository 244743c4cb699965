"""The pictures of a job's report, one figure a question; matplotlib draws them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from federation.progress import (
    ABSENT,
    FAILED,
    LATE,
    REFUSED,
    TOOK_PART,
    TRAINING,
    WAITING,
    History,
    Matrix,
    duration,
)

# A letter says what a colour says (Okabe and Ito's, colour-blind safe).
LETTERS = {
    TOOK_PART: ("P", "#009E73"),
    LATE: ("L", "#E69F00"),
    ABSENT: ("A", "#BBBBBB"),
    REFUSED: ("R", "#D55E00"),
    FAILED: ("F", "#CC79A7"),
    WAITING: ("W", "#56B4E9"),
    TRAINING: ("T", "#0072B2"),
}
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# More sites than this are cells, not curves.
_CURVES = len(_COLOURS)
# Near black; a page puts its own text colour in its place.
INK = "#0a0b0c"
_STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    # A dollar sign in a name is a dollar sign.
    "text.parse_math": False,
}
# A cell of a grid in inches, and the widest grid; more columns than fit get narrower.
_CELL, _WIDEST = 0.27, 80.0
# The narrowest cell in inches that a text is written in.
_READABLE = 0.1
_DPI = 110
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def panels(history: History) -> dict[str, Figure]:
    """The figures of a history by their title, those only that have something to show."""
    found = {}
    with matplotlib.rc_context(_STYLE):
        if any(entry.dice for made in history.rounds for entry in made.entries):
            found["Dice of the global model that each site received"] = _dice(history)
        if history.matrix is not None and scored_rows(history.matrix):
            found["Candidates for the global model, by site"] = _matrix(history.matrix)
        if history.rounds and history.sites:
            found["Who took part in which round"] = _participation(history)
        if history.rounds:
            found["Traffic and time by round"] = _traffic(history)
    return found


def as_svg(figure: Figure, salt: str) -> str:
    """A figure as an ``svg`` element in the colour of the text around it.

    Args:
        figure: of :func:`panels`.
        salt: a word that no other figure of the page has; the ids in it are made from it.
    """
    drawn = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure.savefig(drawn, format="svg", bbox_inches="tight", metadata=_NO_METADATA)
    text = drawn.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def as_png(figures: Mapping[str, Figure]) -> bytes:
    """Figures below each other under their titles, on white."""
    drawn = [part for title, figure in figures.items() for part in (_heading(title), figure)]
    images = [_image(figure) for figure in drawn or [_heading("No round has begun")]]
    gap = _DPI // 8
    size = (max(i.width for i in images), sum(i.height + gap for i in images))
    whole = Image.new("RGB", size, "white")
    below = 0
    for image in images:
        whole.paste(image, (0, below))
        below += image.height + gap
    written = io.BytesIO()
    whole.save(written, format="png")
    return written.getvalue()


def _image(figure: Figure) -> Image.Image:
    drawn = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(drawn, format="png", dpi=_DPI, facecolor="white", bbox_inches="tight")
    return Image.open(drawn).convert("RGB")


def _heading(text: str) -> Figure:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4, 0.3))
        figure.text(0, 0, text, weight="bold", fontsize=12)
    return figure


def _dice(history: History) -> Figure:
    """Dice by structure, site and round: curves, or cells where curves would hide each other."""
    # A round that was repeated has its last attempt's.
    seen = {
        (made.number, entry.site): entry.dice
        for made in history.rounds
        for entry in made.entries
        if entry.dice
    }
    structures = sorted({name for dice in seen.values() for name in dice})
    rounds = sorted({number for number, _ in seen})
    if len(history.sites) <= _CURVES:
        return _curves(structures, history.sites, seen)
    rows = [
        (site, name)
        for name in structures
        for site in history.sites
        if any(name in seen.get((number, site), {}) for number in rounds)
    ]
    values = [[seen.get((number, site), {}).get(name) for number in rounds] for site, name in rows]
    figure, axes = _heat(values, [f"{number}" for number in rounds], _names(rows))
    axes.set_xlabel("round")
    return figure


def _curves(
    structures: Sequence[str],
    sites: Sequence[str],
    seen: Mapping[tuple[int, str], Mapping[str, float]],
) -> Figure:
    """A panel a structure, a line a site, over the rounds."""
    across = len(structures) if len(structures) < 4 else math.ceil(math.sqrt(len(structures)))
    down = math.ceil(len(structures) / across)
    figure = Figure(figsize=(1.2 + 3.4 * across, 0.6 + 2.6 * down), layout="constrained")
    found = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    first, last = min(number for number, _ in seen), max(number for number, _ in seen)
    for panel, name in zip(found, structures, strict=False):
        for place, site in enumerate(sites):
            own = {n: dice[name] for (n, who), dice in seen.items() if who == site and name in dice}
            panel.plot(
                list(own),
                list(own.values()),
                color=_COLOURS[place],
                marker=_MARKERS[place],
                markersize=3.5,
                linewidth=1.3,
                label=site,
            )
        panel.set_title(name, loc="left", fontsize=9)
        panel.set_xlabel("round")
        panel.set_xlim(first - 0.3, last + 0.3)
        panel.set_ylim(0, 1)
        panel.grid(axis="y", alpha=0.25)
        panel.xaxis.get_major_locator().set_params(integer=True)
    for panel in found[len(structures) :]:
        panel.remove()
    figure.supylabel("Dice on the site's validation cases", fontsize=9)
    figure.legend(*found[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def _participation(history: History) -> Figure:
    """Sites down, rounds across."""
    cells = [
        (across, down, LETTERS[entry.kind][1], LETTERS[entry.kind][0])
        for down, site in enumerate(history.sites)
        for across, entry in enumerate(history.entries(site))
        if entry is not None
    ]
    figure, axes = _grid([made.label for made in history.rounds], history.sites)
    _fill(axes, cells)
    axes.set_xlabel("round")
    seen = {entry.kind for made in history.rounds for entry in made.entries}
    keys = [
        Patch(color=colour, label=f"{letter}  {kind}")
        for kind, (letter, colour) in LETTERS.items()
        if kind in seen
    ]
    # Above, from the left: a wide grid is scrolled, and its key stays in sight.
    axes.legend(
        handles=keys,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(keys),
        borderpad=0.2,
        handlelength=1.2,
    )
    return figure


def _matrix(matrix: Matrix) -> Figure:
    """Candidates across, sites down, once a structure; the chosen one is framed."""
    rows = scored_rows(matrix)
    values = [[score(matrix, name, *row) for name in matrix.candidates] for row in rows]
    figure, axes = _heat(values, matrix.candidates, _names(rows))
    chosen = matrix.candidates.index(matrix.chosen)
    frame = Rectangle((chosen - 0.5, -0.5), 1, len(rows), fill=False, edgecolor=INK, linewidth=1.8)
    frame.set_clip_on(False)
    axes.add_patch(frame)
    axes.annotate("chosen", (chosen, -0.6), ha="center", va="bottom", annotation_clip=False)
    for tick in axes.get_xticklabels():
        tick.set_fontweight("bold" if tick.get_text() == matrix.chosen else "normal")
    return figure


def _names(rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{structure}, {site or 'mean by cases'}" for site, structure in rows]


def scored_rows(matrix: Matrix) -> list[tuple[str, str]]:
    """(site, structure) of what the sites scored; the site of the row over all is empty."""
    found = []
    structures = {
        s for by_site in matrix.scores.values() for dice in by_site.values() for s in dice
    }
    for structure in sorted(structures):
        sites = [
            site
            for site in matrix.sites
            if any(structure in by_site.get(site, {}) for by_site in matrix.scores.values())
        ]
        found += [(site, structure) for site in (*sites, *([""] if len(sites) > 1 else []))]
    return found


def score(matrix: Matrix, candidate: str, site: str, structure: str) -> float | None:
    """A candidate's Dice at a site, or without one the mean over the sites by their cases."""
    by_site = matrix.scores.get(candidate, {})
    if site:
        return by_site.get(site, {}).get(structure)
    found = [
        (dice[structure], matrix.cases.get(name, 0))
        for name, dice in by_site.items()
        if structure in dice
    ]
    weights = sum(cases for _, cases in found)
    return sum(dice * cases for dice, cases in found) / weights if weights else None


def _traffic(history: History) -> Figure:
    """Bytes of all sites, and seconds: the round's, its overhead and each site's own."""
    rounds = history.rounds
    places = np.arange(len(rounds))
    width = min(9.0, 3.0 + 0.12 * len(rounds))
    figure = Figure(figsize=(2 * width, 2.8), layout="constrained")
    traffic, time = figure.subplots(1, 2)
    for side, name, colour in ((-1, "down", "#56B4E9"), (1, "up", "#0072B2")):
        total = [sum(getattr(e, f"{name}_bytes") for e in made.entries) / 1e6 for made in rounds]
        label = f"{name}, from sites" if name == "up" else f"{name}, to sites"
        traffic.bar(places + 0.2 * side, total, 0.38, color=colour, label=label)
    traffic.set_ylabel("MB, all sites")
    seconds, overhead = [r.seconds for r in rounds], [r.overhead_s for r in rounds]
    time.bar(places, seconds, color="#BBBBBB", label="round")
    time.bar(places, overhead, color="#D55E00", label="overhead", hatch="///", edgecolor="white")
    dots = [
        (place, entry.seconds)
        for place, made in zip(places, rounds, strict=True)
        for entry in made.entries
        if entry.seconds is not None
    ]
    if dots:
        time.plot(*zip(*dots, strict=True), "o", markersize=3, color="#0072B2", label="a site")
    time.set_ylabel("seconds")
    time.set_title(f"{duration(sum(seconds))} in all", loc="left", fontsize=9)
    every = math.ceil(len(rounds) / 20)
    shown = [place for place in places if every == 1 or rounds[place].attempt == 1][::every]
    for axes in (traffic, time):
        axes.set_xticks(shown, [rounds[place].label for place in shown])
        axes.set_xlabel("round")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)
    return figure


def _heat(
    values: Sequence[Sequence[float | None]], across: Sequence[str], down: Sequence[str]
) -> tuple[Figure, Any]:
    """Numbers from 0 to 1 as coloured cells; an empty one is not known."""
    heat = colormaps["viridis"]
    cells = [
        (x, y, heat(value), f"{value:.2f}".removeprefix("0"))
        for y, row in enumerate(values)
        for x, value in enumerate(row)
        if value is not None
    ]
    figure, axes = _grid(across, down, cell=1.25 * _CELL)
    _fill(axes, cells)
    return figure, axes


def _grid(across: Sequence[str], down: Sequence[str], cell: float = _CELL) -> tuple[Figure, Any]:
    """Axes with a cell for each pair, the first row on top."""
    cell = min(cell, _WIDEST / len(across))
    figure = Figure(figsize=(cell * len(across), _CELL * len(down)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.5, len(across) - 0.5)
    axes.set_ylim(len(down) - 0.5, -0.5)
    every = math.ceil(0.14 / cell)
    turned = 90 if max(map(len, across)) > 3 else 0
    axes.set_xticks(range(0, len(across), every), across[::every], rotation=turned, fontsize=8)
    axes.set_yticks(range(len(down)), down, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure, axes


def _fill(axes: Any, cells: Sequence[tuple[int, int, Any, str]]) -> None:
    """Coloured cells with a text each, where it can be read."""
    boxes = [Rectangle((x - 0.46, y - 0.46), 0.92, 0.92) for x, y, _, _ in cells]
    colours = [colour for _, _, colour, _ in cells]
    axes.add_collection(PatchCollection(boxes, facecolors=colours, edgecolors="none"))
    if axes.get_figure().get_figwidth() < _READABLE * np.ptp(axes.get_xlim()):
        return
    for x, y, colour, text in cells:
        light = np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) > 0.5
        ink = "black" if light else "white"
        # Outside of the layout: a text lies in its cell, and thousands take seconds to measure.
        axes.text(
            *(x, y, text),
            ha="center",
            va="center_baseline",
            fontsize=7.5,
            color=ink,
            in_layout=False,
        )
