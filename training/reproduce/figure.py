"""A table's figure: a panel for each of its columns, a bar for each arm."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from imaging.files import write_whole
from training.reproduce.tables import Report

# Colour-blind safe (Okabe and Ito).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00")


def draw(report: Report, title: str, path: Path) -> None:
    """Write the bars of a report as a PNG.

    Args:
        report: means and standard deviations by panel and arm.
        title: over the figure.
        path: of the file.
    """
    arms = list(next(iter(report.bars.values())))
    figure = Figure(figsize=(2.2 * len(report.bars) + 1.5, 3.6), layout="constrained")
    panels = figure.subplots(1, len(report.bars), sharey=True, squeeze=False)[0]
    for panel, (name, bars) in zip(panels, report.bars.items(), strict=True):
        for place, arm in enumerate(arms):
            mean, deviation = bars[arm]
            colour = _COLOURS[place % len(_COLOURS)]
            panel.bar(place, mean, yerr=deviation, capsize=3, color=colour, label=arm)
        panel.set_title(name, fontsize=9)
        panel.set_xticks([])
        panel.set_ylim(0, 1)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean and standard deviation")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(arms), frameon=False)
    figure.suptitle(title, fontsize=10)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130)
    write_whole(path, drawn.getvalue())
