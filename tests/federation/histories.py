"""Jobs that were never run, for what people are shown of jobs."""

from __future__ import annotations

from federation.progress import Entry, History, Matrix, Round

PHANTOMS = "All cases are phantoms."
MATRIX = Matrix(
    candidates=("round-1", "round-2"),
    sites=("c1", "c2"),
    scores={
        "round-1": {"c1": {"pancreas": 0.5}, "c2": {"pancreas": 0.8, "tumor": 0.25}},
        "round-2": {"c1": {"pancreas": 0.625}},
    },
    cases={"c1": 1, "c2": 3},
    chosen="round-1",
    rule="mean",
)


def entry(site: str = "c1", state: str = "took part", **changed: object) -> Entry:
    """A site that took part, but for what is changed."""
    values: dict[str, object] = {
        "cases": 12,
        "loss": 0.5,
        "seconds": 31.2,
        "up_bytes": 410_000,
        "down_bytes": 1_240_000,
        "dice": {"pancreas": 0.25},
    }
    return Entry(site, state, **{**values, **changed})  # type: ignore[arg-type]


def nothing(site: str, state: str) -> Entry:
    """A site that gave nothing."""
    return Entry(site, state, None, None, None, 0, 0, {})


def a_round(number: int, *entries: Entry, attempt: int = 1) -> Round:
    return Round(number, attempt, "2026-03-01T09:00:00+00:00", 40.0, entries, 2.5)


def history(*rounds: Round, matrix: Matrix | None = MATRIX, **changed: object) -> History:
    """A job of two sites, by default of two rounds of which the second was repeated."""
    usual = (
        a_round(1, entry("c1"), entry("c2", dice={"pancreas": 0.5, "tumor": 0.125})),
        a_round(2, nothing("c1", "absent"), entry("c2", "refused: damaged", loss=None)),
        a_round(2, entry("c1"), attempt=2),
    )
    values: dict[str, object] = {
        "job": "wang2020",
        "job_id": "7f3a",
        "strategy": "fedavg",
        "recipe": "wang2020-tiny",
        "rounds": rounds or usual,
        "matrix": matrix,
        "privacy": "none",
        "sites": ("c1", "c2"),
        "notes": (PHANTOMS,),
    }
    return History(**{**values, **changed})  # type: ignore[arg-type]
