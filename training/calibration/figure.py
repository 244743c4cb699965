"""A calibration for people: a table, and a reliability plot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from imaging.files import write_whole
from models.confidence import is_lesion
from models.labels import BY_NAME
from training.calibration.fit import reliability
from training.calibration.run import Calibrated

# Colour-blind safe (Okabe and Ito).
_BEFORE, _AFTER = "#E69F00", "#0072B2"


def table(made: Calibrated) -> str:
    """Markdown: the errors before and after, and what the bounds do; all on cases left out."""
    fitted, calibration = made.calibration.fitted, made.calibration
    least = {entry.structure: entry.least for entry in calibration.trust}
    stranger = fitted["strangers"]
    lines = [
        f"Temperature {calibration.temperature:g}; expected calibration error of voxels "
        f"{fitted['voxel_error_before']:.3f} before, {fitted['voxel_error_after']:.3f} after.",
        f"{stranger['marked']} CTs without an abdomen have something marked; in "
        f"{stranger['emptied']} of them all of it is left out.",
        "",
        "| structure | n | error before | after | bound | there, kept | wrong, left out |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in fitted["structures"].items():
        bound = f"{least[name]:.2f}" if name in least else "–"
        lines.append(
            f"| {name} | {row['observations']} | {row['error_before']:.3f} | "
            f"{row['error_after']:.3f} | {bound} | {row['there_kept']} of {row['there']} | "
            f"{row['wrong_dropped']} of {row['wrong']} |"
        )
    return "\n".join(lines)


def draw(made: Calibrated, path: Path) -> None:
    """Write a PNG: confidence against what came of it, for voxels, organs and lesions."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    before, after, right = made.voxels
    _panel(panels[0], "voxels", "part that is right", (before, after), right)
    for panel, lesions, outcome in (
        (panels[1], False, "Dice"),
        (panels[2], True, "part that is real"),
    ):
        own = [j for j in made.judgements if is_lesion(BY_NAME[j.seen.structure]) == lesions]
        confidences = (
            np.array([j.seen.evidence.probability for j in own]),
            np.array([j.confidence for j in own]),
        )
        found = np.array([j.seen.outcome for j in own])
        title = f"{'lesions' if lesions else 'organs'} ({len(own)})"
        _panel(panel, title, outcome, confidences, found, dots=not lesions)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("On cases left out of the fit", fontsize=10)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130)
    write_whole(path, drawn.getvalue())


def _panel(
    panel: Axes,
    title: str,
    outcome: str,
    confidences: Sequence[NDArray[np.float64]],
    found: NDArray[np.float64],
    dots: bool = False,
) -> None:
    """Means of bins before and after; with the single observations where they are graded."""
    panel.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="confidence = outcome")
    named = (("mean probability", _BEFORE), ("calibrated", _AFTER))
    for (name, colour), values in zip(named, confidences, strict=True):
        if dots:
            panel.plot(values, found, ".", color=colour, alpha=0.25, markersize=4)
        bins = reliability(values, found, max(1, min(10, len(found) // 10)))
        points = [b.confidence for b in bins], [b.outcome for b in bins]
        panel.plot(*points, "o-", color=colour, label=name)
    panel.set(title=title, xlabel="confidence", ylabel=outcome, xlim=(0, 1), ylim=(0, 1))
    panel.set_aspect("equal")
    panel.spines[["top", "right"]].set_visible(False)
