"""Text of the tables: means, intervals and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluate import Score
from training.statistics import bootstrap_difference, holm, paired_wilcoxon

_SEED = 0


@dataclass(frozen=True)
class Report:
    """What a command prints and draws.

    Attributes:
        text: Markdown; its first line says what data it is about.
        bars: mean and standard deviation of each arm, by panel, for the figure.
    """

    text: str
    bars: dict[str, dict[str, tuple[float, float]]]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def values(scores: Sequence[Score], structure: str, field: str = "dice") -> list[float]:
    """One field of one structure, in the order of the cases."""
    return [getattr(score, field) for score in scores if score.structure == structure]


def mean_sd(found: Sequence[float]) -> str:
    """Mean and standard deviation over cases."""
    return f"{np.mean(found):.3f} ± {np.std(found):.3f}"


def spread(found: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, for a bar."""
    return float(np.mean(found)), float(np.std(found))


def differences(pairs: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> str:
    """A table of paired differences: mean, 95 % bootstrap interval, Wilcoxon's p with Holm's
    correction.

    Args:
        pairs: what is compared, the scores of one and of the other on the same cases.
    """
    corrected = holm([paired_wilcoxon(a, b) for _, a, b in pairs])
    rows = []
    for (name, a, b), p in zip(pairs, corrected, strict=True):
        low, high = bootstrap_difference(a, b, _SEED)
        mean = float(np.mean(np.asarray(a) - np.asarray(b)))
        rows.append([name, f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}", f"{p:.2g}"])
    header = ["difference", "mean", "95 % interval", "p (Wilcoxon, Holm)"]
    return markdown(header, rows)
