"""Is this data fit to train on? Every case is looked at, a fault in one stops no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.check.findings import KINDS, Finding, Kind, Report
from training.check.sets import check

__all__ = ["KINDS", "Finding", "Kind", "Report", "check", "run_check"]


def run_check(folders: Sequence[Path]) -> tuple[str, int]:
    """Check data sets.

    Returns:
        The report in Markdown, and 1 where it holds an error, else 0.
    """
    report = check(folders)
    return str(report), int(bool(report.errors))
