"""How a job goes on, as lines of a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from federation.flare.coordinators import Standing


class Ticker:
    """Prints how a job goes on: a line for each change at a site.

    Args:
        rounds: of the job.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._state = ""
        self._lines: set[str] = set()

    def __call__(self, standing: Standing) -> None:
        """Print what is new."""
        from federation import progress

        if standing.state != self._state:
            self._say(standing.state)
            self._state = standing.state
        rounds = standing.history.rounds if standing.history else ()
        for made in rounds[-2:]:
            for entry in made.entries:
                text = progress.line(made.number, self._rounds, entry)
                if (key := f"{made.label} {text}") not in self._lines:
                    self._lines.add(key)
                    self._say(text)

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
