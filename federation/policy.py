"""What a site allows: a file on its own machine that no job and no server can change."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeGuard

from federation.job import CODECS, Job
from federation.privacy import statement
from imaging.errors import BadParameter, PolicyRefused

FACTS = (
    "cases",  # number of training cases
    "annotated",  # names of the structures that are labelled
    "scores",  # mean Dice of each structure on the site's own validation cases
    "loss",  # mean training and validation loss
    "seconds",  # that the training of a round took
    "norms",  # statistics of normalisation layers, for the model of an unseen hospital
    "local_model",  # the site's own best network
)
"""All that can leave a site beside the updates of shared weights."""

ANY = "*"


@dataclass(frozen=True)
class Policy:
    """A site's limits on jobs, and what of itself it lets go.

    The defaults let usual jobs run and keep what describes a site's images most closely: the
    statistics of its normalisation layers and its own network.

    Attributes:
        recipes: names of recipes that may be trained here; ``*`` stands for all.
        max_rounds: of a job.
        max_local_epochs: in one round.
        min_noise: least ``Privacy.noise`` of a job; above 0, a job without privacy is refused.
        max_epsilon: most that a whole job may spend, see :func:`federation.privacy.statement`.
        codecs: how updates may travel.
        may_leave: of :data:`FACTS`, those that may leave.
    """

    recipes: tuple[str, ...] = (ANY,)
    max_rounds: int = 1000
    max_local_epochs: int = 100
    min_noise: float = 0.0
    max_epsilon: float = math.inf
    codecs: tuple[str, ...] = CODECS
    may_leave: tuple[str, ...] = ("cases", "annotated", "scores", "loss", "seconds")

    def __post_init__(self) -> None:
        for name, allowed in (("recipes", None), ("codecs", CODECS), ("may_leave", FACTS)):
            _check_words(name, getattr(self, name), allowed)
        for name in ("max_rounds", "max_local_epochs"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise BadParameter(f"{name} must be a whole number from 1 on, not {value!r}.")
        if not (_is_number(self.min_noise) and 0 <= self.min_noise < math.inf):
            raise BadParameter(f"min_noise must be a number from 0 on, not {self.min_noise!r}.")
        if not (_is_number(self.max_epsilon) and self.max_epsilon > 0):
            raise BadParameter(f"max_epsilon must be above 0, not {self.max_epsilon!r}.")

    @classmethod
    def read(cls, path: Path) -> Policy:
        """A policy in TOML: any of the fields under their names; the others keep their defaults.

        Raises:
            BadParameter: no readable TOML, a key that is no field, or a value out of range.
        """
        try:
            raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadParameter(f"{path} is no readable policy ({error}).") from error
        known = [field.name for field in fields(cls)]
        for key in sorted(raw.keys() - set(known)):
            raise BadParameter(
                f"{path.name} has {key!r}, which is no rule; the rules are {', '.join(known)}."
            )
        for key, value in raw.items():
            raw[key] = tuple(value) if isinstance(value, list) else value
        return cls(**raw)

    def check(self, job: Job, site: str | None = None) -> None:
        """Refuse a job that this site does not allow.

        Args:
            job: all of it, as the server gave it.
            site: this one's name, to look at its own recipe alone; without it at those of all.

        Raises:
            PolicyRefused: ``details`` have the ``rule``, what is ``allowed`` and what was
                ``asked``.
        """
        recipes = [job.recipe_of(site)] if site else [job.recipe, *job.recipes.values()]
        for recipe in recipes:
            if ANY not in self.recipes and recipe.name not in self.recipes:
                _refuse("recipes", self.recipes, recipe.name)
        for rule, asked in (("max_rounds", job.rounds), ("max_local_epochs", job.local_epochs)):
            if asked > getattr(self, rule):
                _refuse(rule, getattr(self, rule), asked)
        if job.codec not in self.codecs:
            _refuse("codecs", self.codecs, job.codec)
        for fact in _needed(job):
            if fact not in self.may_leave:
                _refuse("may_leave", self.may_leave, fact)
        self._check_privacy(job)

    def outgoing(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a site's facts that may leave.

        Facts that a job cannot do without were asked for by :meth:`check`.

        Raises:
            PolicyRefused: a fact that is not of :data:`FACTS`; what no rule speaks of stays here.
        """
        for name in facts:
            if name not in FACTS:
                _refuse("may_leave", FACTS, name)
        return {name: value for name, value in facts.items() if name in self.may_leave}

    def _check_privacy(self, job: Job) -> None:
        noise = job.privacy.noise if job.privacy else 0.0
        if noise < self.min_noise:
            _refuse("min_noise", self.min_noise, noise)
        if self.max_epsilon == math.inf:
            return
        epsilon = statement(job.privacy, job.rounds)[0] if job.privacy else math.inf
        if epsilon > self.max_epsilon:
            # JSON has no infinity, and details travel as JSON.
            asked = "no bound" if epsilon == math.inf else round(epsilon, 4)
            _refuse("max_epsilon", self.max_epsilon, asked)


def _needed(job: Job) -> list[str]:
    """Facts without which the server cannot weigh an update."""
    wanted = (("cases", job.weighting == "cases"), ("annotated", job.label_aware))
    return [fact for fact, needed in wanted if needed]


def _refuse(rule: str, allowed: object, asked: object) -> None:
    shown = ", ".join(allowed) or "nothing" if isinstance(allowed, tuple) else str(allowed)
    plain = list(allowed) if isinstance(allowed, tuple) else allowed
    raise PolicyRefused(
        f"This site's policy has {rule}: {shown}; asked for was {asked}. Change the job, or have "
        "the site change its policy.",
        rule=rule,
        allowed=plain,
        asked=asked,
    )


def _check_words(name: str, value: object, allowed: tuple[str, ...] | None) -> None:
    if not (isinstance(value, tuple) and all(isinstance(word, str) for word in value)):
        raise BadParameter(f"{name} must be a list of words, not {value!r}.")
    for word in value:
        if allowed is not None and word not in allowed:
            raise BadParameter(f"{name} has {word!r}; it may have {', '.join(allowed)}.")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
