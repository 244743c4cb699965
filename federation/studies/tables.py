"""The tables of the federated papers: models in rows, test sets and structures in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.evaluate import Score
from training.reproduce.tables import Report, differences, markdown, spread, values
from training.statistics import bootstrap_interval

_SEED = 0

# Scores by row (model) and test set.
Found = Mapping[str, Mapping[str, Sequence[Score]]]

# Wang et al. 2020, Table 1, percent: C1 pancreas, C2 pancreas, C2 tumor.
TABLE1_PAPER: Mapping[str, tuple[float, float, float]] = {
    "C1_baseline": (81.5, 42.4, 0.0),
    "C2_baseline": (64.7, 65.4, 54.5),
    "C1_FL_local": (81.6, 65.2, 50.2),
    "C2_FL_local": (81.6, 66.2, 52.6),
    "FL_global": (82.3, 65.4, 46.4),
}
TABLE1_TESTS = (84, 100)
PANCREAS, TUMOR = "pancreas_parenchyma", "pancreas_tumor"
_TABLE1_COLUMNS = ("C1 pancreas", "C2 pancreas", "Pancreas average", "C2 tumor", "Average")

# SegViz, Dice on BTCV, which no site saw.
EXTERNAL_PAPER: Mapping[str, Mapping[str, float]] = {
    "one site": {"liver": 0.87, "spleen": 0.83, "pancreas": 0.42, "kidney": 0.48},
    "FedBN": {"liver": 0.93, "spleen": 0.83, "pancreas": 0.55, "kidney": 0.75},
    "central": {"liver": 0.65, "spleen": 0.0, "pancreas": 0.55, "kidney": 0.68},
}


def averages(
    c1: float, c2: float, tumor: float, cases: tuple[int, int] = TABLE1_TESTS
) -> tuple[float, float]:
    """Table 1's last two columns.

    The paper does not say how it averages. Its five rows come out if "Pancreas average" weights
    each test set by its cases (84 and 100) and "Average" is the mean of that and the tumor's.

    Args:
        c1, c2, tumor: mean Dice of the pancreas on either test set, and of the tumor.
        cases: of the two test sets.

    Returns:
        The pancreas average and the average.
    """
    pancreas = (cases[0] * c1 + cases[1] * c2) / sum(cases)
    return pancreas, (pancreas + tumor) / 2


def table1(found: Found, about: str) -> Report:
    """Table 1 of Wang et al. 2020, with the paper's figures above ours.

    Pancreas is its healthy part, as the paper has it. Every column but the last is a mean over
    cases and has its 95 % bootstrap interval.

    Args:
        found: scores on ``c1`` and ``c2`` of the five models, by the paper's names.
        about: the report's first line.
    """
    rows = [[f"paper: {name}", *_paper_cells(*three)] for name, three in TABLE1_PAPER.items()]
    rows += [[f"ours: {name}", *_cells(found[name])] for name in TABLE1_PAPER]
    ours = {name: _columns(found[name]) for name in TABLE1_PAPER}
    pairs = [
        (f"FL_global - {name}, {column}", ours["FL_global"][column], ours[name][column])
        for name in ("C1_baseline", "C2_baseline")
        for column in ("C1 pancreas", "C2 pancreas", "C2 tumor")
    ]
    text = "\n\n".join(
        [
            f"{about} Dice and its 95 % interval.",
            markdown(["", *_TABLE1_COLUMNS], rows),
            "The federation's model minus each site's own, paired over cases:",
            differences(pairs),
        ]
    )
    bars = {c: {n: spread(ours[n][c]) for n in ours} for c in _TABLE1_COLUMNS[:-1]}
    return Report(text, bars)


def external_table(found: Found, test: str, organs: Sequence[str], about: str) -> Report:
    """SegViz's table: Dice on the cases of a hospital that took no part.

    Args:
        found: scores on the external set by arm, the arm of single sites first.
        test: name of the external set in it.
        organs: the columns.
        about: the report's first line.
    """
    ours = {arm: {o: values(sets[test], o) for o in organs} for arm, sets in found.items()}
    rows = [
        [f"paper: {arm}", *(f"{means[o]:.2f}" for o in organs), f"{_mean(means, organs):.2f}"]
        for arm, means in EXTERNAL_PAPER.items()
    ]
    rows += [
        [f"ours: {arm}", *(interval(of[o]) for o in organs), interval(_by_case(of, organs))]
        for arm, of in ours.items()
    ]
    alone, *together = ours
    pairs = [
        (f"{arm} - {alone}", _by_case(ours[arm], organs), _by_case(ours[alone], organs))
        for arm in together
    ]
    text = "\n\n".join(
        [
            f"{about} Dice and its 95 % interval on a hospital that took no part.",
            markdown(["", *organs, "mean"], rows),
            "Mean over the organs, paired over cases:",
            differences(pairs),
        ]
    )
    return Report(text, {o: {a: spread(ours[a][o]) for a in ours} for o in organs})


def interval(found: Sequence[float]) -> str:
    """Mean and 95 % bootstrap interval over cases."""
    low, high = bootstrap_interval(found, _SEED)
    return f"{np.mean(found):.3f} ({low:.3f} to {high:.3f})"


def _columns(sets: Mapping[str, Sequence[Score]]) -> dict[str, list[float]]:
    """Dice of the cases of each column that is a mean over cases."""
    c1, c2 = values(sets["c1"], PANCREAS), values(sets["c2"], PANCREAS)
    found = (c1, c2, [*c1, *c2], values(sets["c2"], TUMOR))
    return dict(zip(_TABLE1_COLUMNS[:-1], found, strict=True))


def _cells(sets: Mapping[str, Sequence[Score]]) -> list[str]:
    columns = _columns(sets)
    c1, c2, _, tumor = (float(np.mean(found)) for found in columns.values())
    cases = len(columns["C1 pancreas"]), len(columns["C2 pancreas"])
    return [*map(interval, columns.values()), f"{averages(c1, c2, tumor, cases)[1]:.3f}"]


def _paper_cells(c1: float, c2: float, tumor: float) -> list[str]:
    pancreas, average = averages(c1, c2, tumor)
    return [f"{v / 100:.3f}" for v in (c1, c2, pancreas, tumor, average)]


def _mean(means: Mapping[str, float], organs: Sequence[str]) -> float:
    return float(np.mean([means[o] for o in organs]))


def _by_case(of: Mapping[str, Sequence[float]], organs: Sequence[str]) -> list[float]:
    """The mean over organs of every case."""
    return [float(v) for v in np.mean([of[o] for o in organs], axis=0)]
