"""Choosing the global model: every candidate scored by every site, the best by a declared rule.

Wang et al. 2020 end with the last round's model and name a selection on the server as what they
lacked. The server sees scores here and no case; the last model is a candidate like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation import message
from federation.parts import Weights
from federation.progress import Matrix
from imaging.files import whole_file

Scores = dict[str, float]


class Candidates:
    """The global models that may be chosen, on disk, and what the sites say of them.

    Args:
        folder: of the job's server.
        state, arrays: of :meth:`state` and :meth:`arrays`, to go on with.
    """

    def __init__(
        self,
        folder: Path,
        state: Mapping[str, Any] | None = None,
        arrays: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self._folder = folder / "candidates"
        self._names: list[str] = list(state["names"]) if state else []
        self._scores: dict[str, dict[str, Scores]] = dict(state["scores"]) if state else {}
        self._norms: dict[str, dict[str, Weights]] = {name: {} for name in self._names}
        for key, value in (arrays or {}).items():
            candidate, site, name = key.split("/", 2)
            self._norms[candidate].setdefault(site, {})[name] = value

    @staticmethod
    def name(rounds: int) -> str:
        """The candidate after so many rounds."""
        return f"round-{rounds}"

    @property
    def names(self) -> tuple[str, ...]:
        """Of all candidates, the first round's first."""
        return tuple(self._names)

    def add(self, name: str, weights: Weights) -> None:
        """Keep a candidate; one of the same name is replaced, and its scores are forgotten."""
        with whole_file(self._folder / f"{name}.bin", durable=True) as file:
            file.write(message.pack({}, weights))
        if name not in self._names:
            self._names.append(name)
        self._scores[name], self._norms[name] = {}, {}

    def weights(self, name: str) -> Weights:
        """The shared tensors of a candidate."""
        return message.unpack((self._folder / f"{name}.bin").read_bytes())[1]

    def scored(self, name: str, site: str, scores: Mapping[str, float], norms: Weights) -> None:
        """Keep what a site says: Dice by structure, and its normalisation layers at that time."""
        if scores or site not in self._scores[name]:
            self._scores[name][site] = dict(scores)
        if norms:
            self._norms[name][site] = norms

    def wanted(self, site: str) -> list[str]:
        """Candidates that a site has not scored."""
        return [name for name in self._names if site not in self._scores[name]]

    def norms(self, name: str) -> dict[str, Weights]:
        """The sites' normalisation layers of a candidate, where they were let out."""
        return self._norms.get(name, {})

    def matrix(self, cases: Mapping[str, int], rule: str) -> Matrix:
        """All scores, and the choice.

        Candidates are compared by those sites that scored all of them. Where no site has cases to
        validate on, the last one is chosen.

        Args:
            cases: of the sites, their weights in the mean.
            rule: of ``federation.job.RULES``.
        """
        sites = sorted({site for found in self._scores.values() for site in found})
        judges = [s for s in sites if all(self._scores[n].get(s) for n in self._names)]
        values = {
            name: _value({s: self._scores[name][s] for s in judges}, cases, rule)
            for name in self._names
        }
        # Of equals the later one, which has seen more.
        chosen = max(self._names, key=lambda n: (values[n], self._names.index(n)))
        known = {site: cases.get(site, 0) for site in sites}
        return Matrix(self.names, tuple(sites), self._scores, known, chosen, rule)

    def state(self) -> dict[str, Any]:
        """Names and scores, plain JSON; weights are in files, norms in :meth:`arrays`."""
        return {"names": self._names, "scores": self._scores}

    def arrays(self) -> Weights:
        """The normalisation layers that were let out, by candidate, site and name."""
        return {
            f"{candidate}/{site}/{name}": value
            for candidate, sites in self._norms.items()
            for site, norms in sites.items()
            for name, value in norms.items()
        }


def _value(scores: Mapping[str, Scores], cases: Mapping[str, int], rule: str) -> float:
    """What a rule makes of a candidate's scores; 0 where no site judges."""
    if not scores:
        return 0.0
    means = {site: float(np.mean(list(found.values()))) for site, found in scores.items()}
    if rule == "worst":
        return min(means.values())
    weights = [cases.get(site, 1) if rule == "mean" else 1 for site in means]
    return float(np.average(list(means.values()), weights=weights))
