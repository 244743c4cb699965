"""What happened in a job so far, as values, as a file and as lines of a terminal.

The coordinator writes it, ``status`` and the report read it; it is free of torch, so ``status`` is
quick. It names sites and counts; no case is in it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from federation.job import check_site
from imaging.errors import BadParameter, DataError
from imaging.files import write_whole

# The coordinator's file of it.
ROUNDS = "rounds.json"

TOOK_PART, LATE, ABSENT, FAILED = "took part", "late", "absent", "failed"
WAITING, TRAINING, REFUSED = "waiting", "training", "refused"
STATES = (TOOK_PART, LATE, ABSENT, REFUSED, FAILED, WAITING, TRAINING)
# A refusal says why: the code of an error.
_REFUSAL = re.compile(rf"{REFUSED}: [a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Entry:
    """One site in one round.

    Attributes:
        site: its name.
        state: ``took part``, ``late``, ``absent``, ``refused: CODE``, ``failed``, ``waiting`` or
            ``training``.
        cases: that it trained on, ``None`` where it did not say.
        loss: mean over its steps of the round; ``None`` where there is none or it is not finite.
        seconds: from its request to its reply.
        up_bytes: what it sent.
        down_bytes: what it was sent.
        dice: mean Dice by structure, 0 to 1, of the global model that it received, on its own
            validation cases; may be empty.
    """

    site: str
    state: str
    cases: int | None
    loss: float | None
    seconds: float | None
    up_bytes: int
    down_bytes: int
    dice: Mapping[str, float]

    def __post_init__(self) -> None:
        _check_words(state=self.state)
        _check_sites([self.site])
        plain = self.state in STATES and self.state != REFUSED
        if not plain and not _REFUSAL.fullmatch(self.state):
            raise BadParameter(
                f"{self.state!r} is no state of a site; use one of {', '.join(STATES)}, and "
                f"'{REFUSED}: CODE' for a refusal."
            )
        if self.loss is not None and not math.isfinite(self.loss):
            raise BadParameter(f"loss must be finite, not {self.loss}; write None.")
        for name in ("cases", "seconds"):
            _check_count(name, getattr(self, name) or 0)
        for name in ("up_bytes", "down_bytes"):
            _check_count(name, getattr(self, name))
        _check_dice(self.dice)

    @property
    def kind(self) -> str:
        """The state without the code of a refusal."""
        return self.state.partition(":")[0]


@dataclass(frozen=True)
class Round:
    """One round, or one attempt at it.

    Attributes:
        number: of the round, from 1.
        attempt: 1, and one more each time the round had to be repeated.
        started: when, in ISO 8601.
        seconds: from its first request to its end.
        entries: one a site.
        overhead_s: what of ``seconds`` no site trained in.
    """

    number: int
    attempt: int
    started: str
    seconds: float
    entries: tuple[Entry, ...]
    overhead_s: float

    def __post_init__(self) -> None:
        if self.number < 0 or self.attempt < 1:
            raise BadParameter(f"There is no attempt {self.attempt} at a round {self.number}.")
        _check_words(started=self.started)
        try:
            datetime.fromisoformat(self.started)
        except ValueError as error:
            raise BadParameter(f"started must be in ISO 8601, not {self.started!r}.") from error
        _check_count("seconds", self.seconds)
        _check_count("overhead_s", self.overhead_s)
        names = [entry.site for entry in self.entries]
        if len(set(names)) < len(names):
            raise BadParameter(f"Round {self.number} has two entries of one site: {names}.")

    @property
    def label(self) -> str:
        """Its number, with the attempt where that is not the first: ``3``, ``3.2``."""
        return f"{self.number}" if self.attempt == 1 else f"{self.number}.{self.attempt}"


@dataclass(frozen=True)
class Matrix:
    """Candidates for the global model, scored by the sites.

    Attributes:
        candidates: their names, in the order they came up.
        sites: who scored.
        scores: mean Dice, 0 to 1, by candidate, site and structure. A site has only what it labels;
            one that did not answer is missing.
        cases: training cases by site, the weights of means over sites.
        chosen: the candidate that is the global model.
        rule: that chose it, of ``federation.job.RULES``.
    """

    candidates: tuple[str, ...]
    sites: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]
    cases: Mapping[str, int]
    chosen: str
    rule: str

    def __post_init__(self) -> None:
        _check_words(*self.candidates, chosen=self.chosen, rule=self.rule)
        _check_sites(self.sites)
        _check_known("candidate", (self.chosen, *self.scores), self.candidates)
        for found in (self.cases, *self.scores.values()):
            _check_known("site of the matrix", found, self.sites)
        for site, count in self.cases.items():
            _check_count(f"cases of {site}", count)
        for by_site in self.scores.values():
            for dice in by_site.values():
                _check_dice(dice)


@dataclass(frozen=True)
class History:
    """A job so far.

    Attributes:
        job: its name.
        job_id: under which the engine runs it; may be empty.
        strategy, recipe: names.
        rounds: all attempts in their order; the last may still be going on.
        matrix: the candidates' scores, once there are any.
        privacy: one sentence that states the protection of updates, or ``none``.
        sites: all that ever took part or were asked.
        notes: sentences for the reader; one says so where the cases are phantoms.
    """

    job: str
    job_id: str
    strategy: str
    recipe: str
    rounds: tuple[Round, ...]
    matrix: Matrix | None
    privacy: str
    sites: tuple[str, ...]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_words(
            *(self.job_id, self.strategy, self.recipe, self.privacy, *self.notes), job=self.job
        )
        _check_sites(self.sites)
        for made in self.rounds:
            _check_known("site of the job", (entry.site for entry in made.entries), self.sites)

    @property
    def on_phantoms(self) -> bool:
        """Whether a note says that cases are phantoms."""
        return any("phantom" in note.lower() for note in self.notes)

    def entries(self, site: str) -> list[Entry | None]:
        """A site's entries, one a round; ``None`` where the round has none of it."""
        found = [{entry.site: entry for entry in made.entries} for made in self.rounds]
        return [entries.get(site) for entries in found]

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> History:
        """The history of :meth:`to_json`.

        Raises:
            DataError: not a history of this version.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            raw["rounds"] = tuple(map(_round, raw["rounds"]))
            raw["matrix"] = None if raw["matrix"] is None else _matrix(raw["matrix"])
            return cls(**_tupled(raw, "sites", "notes"))
        except (ValueError, TypeError, KeyError, AttributeError, BadParameter) as error:
            raise DataError(f"This is no history of a job of this version ({error}).") from error

    def save(self, path: Path) -> None:
        """Write it to a file in one step."""
        write_whole(path, self.to_json().encode())

    @classmethod
    def load(cls, path: Path) -> History:
        """Read a file of :meth:`save`.

        Raises:
            DataError: missing, cut short or something else.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, DataError) as error:
            raise DataError(
                f"{path.name} cannot be read as a job's history ({error}); name the folder of a "
                "job that has begun."
            ) from error


def line(round: int, rounds: int, entry: Entry) -> str:
    """What is printed when something happens at a site, in one line.

    Args:
        round: number of the current one.
        rounds: of the job.
        entry: the site's, as it is now.
    """
    told = [
        "" if entry.cases is None else f"{entry.cases} cases",
        "" if entry.loss is None else f"loss {entry.loss:.3f}",
        "" if entry.seconds is None else duration(entry.seconds),
        f"{size(entry.up_bytes)} up" if entry.up_bytes else "",
        f"{size(entry.down_bytes)} down" if entry.down_bytes else "",
        f"Dice {_dice(entry)}" if entry.dice else "",
    ]
    said = ", ".join(filter(None, told))
    return f"round {round}/{rounds}  {entry.site}  {entry.state}" + (f": {said}" if said else "")


def table(history: History) -> str:
    """The current round as text: one row a site, and how often it took part so far."""
    head = f"{history.job} ({history.job_id or 'no id'}): {history.strategy}, {history.recipe}"
    if not history.rounds:
        return "\n".join([head, "no round has begun", *history.notes])
    last = history.rounds[-1]
    repeat = "" if last.attempt == 1 else f", attempt {last.attempt}"
    chosen = "" if history.matrix is None else f"; chosen: {history.matrix.chosen}"
    rows = [
        ("site", "now", "took part", "cases", "loss", "time", "up", "down", "Dice"),
        *((site, *_row(history.entries(site))) for site in history.sites),
    ]
    return "\n".join(
        [
            head,
            f"round {last.number}{repeat}, begun {last.started}{chosen}",
            *columns(rows),
            *history.notes,
        ]
    )


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of text, padded to columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (zip(row, widths, strict=True) for row in rows)
    return ["  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in padded]


def size(count: float) -> str:
    """Bytes for a reader, three digits of them, in powers of 1000."""
    for unit in ("bytes", "kB", "MB"):
        # What rounds to four digits is of the next unit.
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB" if count < 999.5 else f"{count:.0f} GB"


def duration(seconds: float) -> str:
    """A time for a reader: seconds, minutes or hours."""
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200)):
        if seconds < most:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 3600:.1f} h"


def _row(entries: Sequence[Entry | None]) -> tuple[str, ...]:
    """A site's row but for its name; a hyphen is what is not known."""
    part = f"{sum(e is not None and e.state == TOOK_PART for e in entries)}/{len(entries)}"
    now = entries[-1]
    if now is None:
        return ("-", part, "-", "-", "-", "-", "-", "-")
    return (
        now.state,
        part,
        "-" if now.cases is None else f"{now.cases}",
        "-" if now.loss is None else f"{now.loss:.3f}",
        "-" if now.seconds is None else duration(now.seconds),
        size(now.up_bytes),
        size(now.down_bytes),
        _dice(now) or "-",
    )


def _dice(entry: Entry) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in sorted(entry.dice.items()))


def _round(raw: dict[str, Any]) -> Round:
    return Round(**{**raw, "entries": tuple(Entry(**entry) for entry in raw["entries"])})


def _matrix(raw: dict[str, Any]) -> Matrix:
    return Matrix(**_tupled(raw, "candidates", "sites"))


def _tupled(raw: dict[str, Any], *names: str) -> dict[str, Any]:
    """Lists of a file as the tuples that they were."""
    wrong = [name for name in names if not isinstance(raw[name], list)]
    if wrong:
        raise BadParameter(f"{wrong} must be lists.")
    return {**raw, **{name: tuple(raw[name]) for name in names}}


def _check_words(*words: object, **named: object) -> None:
    """Refuse what is no text, and what has a name and is empty."""
    for value in (*words, *named.values()):
        if not isinstance(value, str):
            raise BadParameter(f"{value!r} must be text.")
    for name, value in named.items():
        if not value:
            raise BadParameter(f"{name} must not be empty.")


def _check_sites(names: Sequence[str]) -> None:
    _check_words(*names)
    for name in names:
        check_site(name)


def _check_count(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise BadParameter(f"{name} must be 0 or more and finite, not {value}.")


def _check_dice(dice: Mapping[str, float]) -> None:
    for structure, value in dice.items():
        _check_words(structure)
        if not 0 <= value <= 1:
            raise BadParameter(f"A Dice is from 0 to 1, that of {structure!r} is {value}.")


def _check_known(what: str, found: Any, known: Sequence[str]) -> None:
    strange = sorted(set(found) - set(known))
    if strange:
        raise BadParameter(f"{strange} is no {what}; there are {', '.join(known) or 'none'}.")
