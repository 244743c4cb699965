"""What a federated training is: one frozen value that every party of a job is given."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imaging.errors import BadParameter
from training.recipe import Recipe

CODECS = ("fp32", "fp16", "int8")
WEIGHTINGS = ("cases", "equal")
RULES = ("mean", "equal", "worst")
# Strategies whose server does not move the global model by the mean of the updates itself.
OWN_STEPS = ("fedopt",)
# A job's name is one of a folder, too.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# A site's name is a word that FLARE, a folder and an alias of the store (site-NAME) all take.
_SITE = re.compile(r"[a-z][a-z0-9-]{0,31}")
# Words that the engine, a setting's reader or YAML take for something else.
_NO_SITES = ("nan", "inf", "infinity", "true", "false", "yes", "no", "on", "off", "none", "null")


@dataclass(frozen=True)
class Privacy:
    """Noise that a site adds to its own update before it leaves (local differential privacy).

    Attributes:
        clip: largest L2 norm of an update; a longer one is shortened to it.
        noise: standard deviation of the added normal noise, in units of ``clip``.
        delta: of the (epsilon, delta) statement.
    """

    clip: float
    noise: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        if not (0 < self.clip < math.inf and 0 <= self.noise < math.inf and 0 < self.delta < 1):
            raise BadParameter(
                "Privacy needs a positive clip, noise of 0 or more and a delta between 0 and 1, "
                f"not {self.clip}, {self.noise} and {self.delta}."
            )


@dataclass(frozen=True)
class Job:
    """A federated training, whole.

    Attributes:
        name: of the job.
        recipe: what is trained, over all rounds: its steps are those of one site in the job.
        recipes: sites that train another recipe of the same network; SegViz's sites differ in
            their organ and window.
        start: a model of the server's store (``NAME@ALIAS``), the released ones behind it, whose
            weights the first round begins with; else those of the recipe's seed.
        strategy: key of ``federation.strategies.STRATEGIES``.
        options: figures of the strategy, each with its default there.
        weighting: a site counts as much as its ``cases``, or all sites are ``equal``.
        weights: sites that count as much as is said here instead, each more than 0; for sites whose
            copies and phantoms say nothing of how much they know.
        label_aware: a channel of the last layer is averaged over the sites that label it.
        local_head: the last layers stay at their site, as SegViz's do.
        rounds, local_epochs: the paper of Wang et al. trains 10 epochs a round.
        min_sites, max_sites: fewer do not make a round, more are not let in.
        round_timeout_s: a round that has not enough updates by then fails and is repeated.
        grace_s: how long a round waits for the other sites once it has enough updates.
        codec: how differences travel: ``fp32``, ``fp16`` or ``int8`` (both with error feedback).
        privacy: noise on updates, or none.
        score_every: rounds between two candidates for the global model and for a site's own best;
            the last round's are among them.
        rule: how the best candidate is chosen from the sites' scores: the case-weighted ``mean``,
            the ``equal`` mean, or the ``worst`` site's score.
    """

    name: str
    recipe: Recipe
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    start: str = ""
    strategy: str = "fedavg"
    options: Mapping[str, float] = field(default_factory=dict)
    weighting: str = "cases"
    weights: Mapping[str, float] = field(default_factory=dict)
    label_aware: bool = False
    local_head: bool = False
    rounds: int = 10
    local_epochs: int = 10
    min_sites: int = 2
    max_sites: int = 16
    round_timeout_s: float = 3600.0
    grace_s: float = 600.0
    codec: str = "fp32"
    privacy: Privacy | None = None
    score_every: int = 1
    rule: str = "mean"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BadParameter(
                f"{self.name[:80]!r} is no name of a job; use letters, digits, points and hyphens."
            )
        for field_name, allowed in (
            ("codec", CODECS),
            ("weighting", WEIGHTINGS),
            ("rule", RULES),
        ):
            value = getattr(self, field_name)
            if value not in allowed:
                raise BadParameter(
                    f"{field_name} must be one of {', '.join(allowed)}, not {value!r}."
                )
        if min(self.rounds, self.local_epochs, self.score_every, self.min_sites) < 1:
            raise BadParameter(
                "rounds, local_epochs, score_every and min_sites must be at least 1."
            )
        if self.max_sites < self.min_sites:
            raise BadParameter(f"max_sites {self.max_sites} is below min_sites {self.min_sites}.")
        if not (self.round_timeout_s > 0 and self.grace_s >= 0):
            raise BadParameter("round_timeout_s must be positive and grace_s not negative.")
        if self.label_aware and self.local_head:
            raise BadParameter("A head that stays at its site is not averaged by label.")
        self._check_sites()
        for recipe in (self.recipe, *self.recipes.values()):
            self._check(recipe)

    def recipe_of(self, site: str) -> Recipe:
        """What a site trains."""
        return self.recipes.get(site, self.recipe)

    def weight_of(self, site: str, cases: int) -> float:
        """What a site with so many cases counts in an average."""
        return self.weights.get(site, cases if self.weighting == "cases" else 1)

    def to_json(self) -> str:
        """Canonical JSON, for FLARE's job and for logs."""
        raw = dataclasses.asdict(dataclasses.replace(self, recipes={}))
        raw["recipe"] = json.loads(self.recipe.to_json())
        raw["recipes"] = {site: json.loads(r.to_json()) for site, r in self.recipes.items()}
        return json.dumps(raw, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job of :meth:`to_json`.

        Raises:
            BadParameter: not a job of this version.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            raw["recipe"] = Recipe.from_json(json.dumps(raw["recipe"]))
            raw["recipes"] = {
                site: Recipe.from_json(json.dumps(r)) for site, r in raw["recipes"].items()
            }
            if raw["privacy"] is not None:
                raw["privacy"] = Privacy(**raw["privacy"])
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadParameter(
                f"This is no job of this version ({error}); make it with this one."
            ) from error

    def _check_sites(self) -> None:
        for site in (*self.recipes, *self.weights):
            check_site(site)
        for site, weight in self.weights.items():
            if not 0 < weight < math.inf:
                raise BadParameter(f"Site {site} must count more than 0, not {weight}.")

    def _check(self, recipe: Recipe) -> None:
        steps = self.rounds * self.local_epochs * recipe.steps_per_epoch
        if recipe.steps != steps:
            raise BadParameter(
                f"{self.rounds} rounds of {self.local_epochs} epochs of {recipe.steps_per_epoch} "
                f"steps are {steps} steps; {recipe.name} has {recipe.steps}."
            )
        if recipe.averaged and self.strategy in OWN_STEPS:
            raise BadParameter(
                f"{recipe.name} ends with the mean of its weights, which a server of "
                f"{self.strategy} does not take as it is; choose another strategy."
            )
        if recipe.architecture != self.recipe.architecture:
            raise BadParameter(
                f"All sites train one network; {recipe.name} has {recipe.architecture}, not "
                f"{self.recipe.architecture}."
            )
        before = ", ".join(recipe.parts.values()) or recipe.pretrain
        if before and not self.start:
            raise BadParameter(
                f"{recipe.name} is made from {before}, which a job of {recipe.name} does not "
                "train; begin with a model of it (start), or submit a job of that."
            )
        if recipe.options != self.recipe.options:
            raise BadParameter(
                f"All sites train one network; {recipe.name} has it with {recipe.options}, not "
                f"{self.recipe.options}."
            )
        if recipe.outputs != self.recipe.outputs and not self.local_head:
            raise BadParameter(
                f"{recipe.name} has the outputs {recipe.outputs}, not {self.recipe.outputs}; sites "
                "that learn different structures need local_head."
            )


def scheduled(recipe: Recipe, rounds: int, local_epochs: int) -> Recipe:
    """A recipe as long as the rounds of a job are together; its schedule spans all of them."""
    steps = rounds * local_epochs * recipe.steps_per_epoch
    return dataclasses.replace(recipe, steps=steps)


def check_site(name: str) -> None:
    """Refuse what is no name of a site.

    Raises:
        BadParameter: names the value.
    """
    if not _SITE.fullmatch(name) or name in _NO_SITES:
        raise BadParameter(
            f"{name[:40]!r} is no name of a site; use a lower-case word such as c1 or north-clinic."
        )
