"""Every forged input through the reader and over HTTP."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.trials.forged.asking import ask_all, good_answer, service, unwell
from benchmarks.trials.forged.case import Case, Seen, fault
from benchmarks.trials.forged.catalogue import catalogue
from benchmarks.trials.forged.reading import Read, read_all
from benchmarks.trials.row import Row


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        case: which one.
        read: by the reader.
        served: over HTTP.
        seconds: of the answer over HTTP.
    """

    case: Case
    read: Read
    served: Seen
    seconds: float

    def faults(self) -> list[str]:
        """What is wrong with either way; at most one of each."""
        ways = (
            ("read", fault(self.case.expected, self.read.seen)),
            ("served", fault(self.case.served or self.case.expected, self.served)),
        )
        return [f"{self.case.name}, {way}: {wrong}" for way, wrong in ways if wrong]


def trial(model: str = "starter", only: Sequence[Case] | None = None) -> list[Row]:
    """A row for each family of cases, both ways of each counted, and one for the service after.

    What is lost is named on the standard error.

    Args:
        model: that the service answers with, in the default store.
        only: some of the cases; all where not given.

    Raises:
        ServiceFailed: the service did not start.
    """
    cases = list(catalogue().values()) if only is None else only
    with tempfile.TemporaryDirectory(prefix="islet-forged-") as name:
        outcomes, unwell_of = _outcomes(cases, model, Path(name))
    lost = [line for outcome in outcomes for line in outcome.faults()]
    for line in (*lost, *unwell_of):
        print(f"LOST {line}", file=sys.stderr)
    return [*_rows(outcomes), _health(len(cases), bool(unwell_of))]


def _outcomes(cases: Sequence[Case], model: str, folder: Path) -> tuple[list[Outcome], list[str]]:
    """What came of each case, and what is wrong with the service afterwards."""
    sources = [_written(case, folder / f"{i}") for i, case in enumerate(cases)]
    written = list(zip(cases, sources, strict=True))
    found = list(read_all(written))
    with service(folder, model) as served:
        before = good_answer(served)
        asked = list(ask_all(served, written))
        faults = unwell(served, before)
    made = [
        Outcome(case, read, seen, seconds)
        for case, read, (seen, seconds) in zip(cases, found, asked, strict=True)
    ]
    return made, faults


def _written(case: Case, folder: Path) -> Path:
    folder.mkdir()
    return case.write(folder)


def _rows(outcomes: Sequence[Outcome]) -> Iterator[Row]:
    for family in dict.fromkeys(outcome.case.family for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.case.family == family]
        lost = sum(len(outcome.faults()) for outcome in own)
        figure = (
            f"{len(own)} files; read within {max(o.read.cpu_s for o in own):.1f} s and "
            f"{max(o.read.memory_mb for o in own):.0f} MB, answered within "
            f"{max(o.seconds for o in own):.1f} s"
        )
        yield Row(f"forged {family}", 2 * len(own), 2 * len(own) - lost, lost, figure)


def _health(cases: int, lost: bool) -> Row:
    figure = f"a sound CT has the same masks after {cases} files"
    return Row("forged, service after", 1, int(not lost), int(lost), figure)
