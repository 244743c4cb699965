"""SegViz on phantoms: four hospitals with one organ each, scored at a fifth that took no part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from federation.job import Job
from federation.studies.cohorts import Hospital
from federation.studies.study import Arm, Model, Study, paced
from federation.studies.tables import Found, external_table
from training.recipe import Loss, Optimizer, Recipe, Scale
from training.recipes import recipe as named_recipe
from training.reproduce.tables import Report

ORGANS = ("liver", "spleen", "pancreas", "kidney")
_EXTERNAL = "external"
_STYLES = ("a-thin-portal", "b-thick-portal", "a-thin-portal", "d-arterial-noisy")
_HOSPITALS = (
    *(
        Hospital(organ, style, (4.0, 4.0, 4.0), (organ,))
        for organ, style in zip(ORGANS, _STYLES, strict=True)
    ),
    Hospital(_EXTERNAL, "e-late-sharp", (4.0, 4.0, 4.0), ORGANS, train=0),
)
# SegViz exchanges weights every 10 of 500 epochs.
_PAPER_ROUNDS, _SHORT_ROUNDS = 50, 16
# Steps between two exchanges; with 40 the averages of so different sites were worth nothing.
_SHORT_EPOCH = 10


def _recipe(name: str, scale: Scale, seed: int) -> Recipe:
    """The paper's recipe; below its scale, with what lets so few steps learn an organ at all."""
    recipe = dataclasses.replace(named_recipe(name, scale), seed=seed)
    if scale == "paper":
        return recipe
    recipe = dataclasses.replace(
        recipe,
        loss=Loss("dice_ce", log_dice=True, smooth=5.0),
        optimizer=Optimizer("adamw", 5e-3, "cosine"),
    )
    if scale == "small":
        return recipe
    return dataclasses.replace(
        recipe,
        options={"filters": [8, 16, 32, 32, 64]},
        steps=_SHORT_ROUNDS * _SHORT_EPOCH,
        steps_per_epoch=_SHORT_EPOCH,
        foreground=0.8,
    )


def _job(name: str, recipes: Mapping[str, Recipe], strategy: str = "fedavg", times: int = 1) -> Job:
    """The same training for all arms: as many steps a site in as many rounds.

    Args:
        name: of the arm.
        recipes: of its sites; where they differ, the sites share the trunk and keep their heads.
        strategy: of the job.
        times: how many times as long as the others.
    """
    long = {}
    for site, recipe in recipes.items():
        rounds = _PAPER_ROUNDS if recipe.scale == "paper" else _SHORT_ROUNDS
        long[site], epochs = paced(recipe, rounds, times)
    differ = len({recipe.name for recipe in recipes.values()}) > 1
    return Job(
        name=name,
        recipe=next(iter(long.values())),
        recipes=long if differ else {},
        strategy=strategy,
        weighting="equal",
        local_head=differ,
        rounds=rounds,
        local_epochs=epochs,
        score_every=max(1, rounds // 4),
        min_sites=len(recipes),
        max_sites=len(recipes),
    )


def _arms(scale: Scale, seed: int) -> tuple[Arm, ...]:
    """Each site alone, all data in one place, and the federations.

    One place takes as many steps as the four sites together.
    """
    organs = {organ: _recipe(f"segviz-{organ}", scale, seed) for organ in ORGANS}
    pooled = _recipe("segviz", scale, seed)
    own = {organ: (organ,) for organ in ORGANS}
    alone = [
        Arm(_job(f"alone-{organ}", {organ: recipe}), {organ: (organ,)})
        for organ, recipe in organs.items()
    ]
    return (
        Arm(_job("central", {"central": pooled}, times=len(ORGANS)), {"central": ORGANS}),
        *alone,
        Arm(_job("fedavg", organs), own),
        Arm(_job("fedbn", organs, "fedbn"), own),
        Arm(_job("condist", dict.fromkeys(ORGANS, pooled), "condist"), own),
    )


def _report(found: Found, about: str) -> Report:
    return external_table(found, _EXTERNAL, ORGANS, about)


def _own(arm: str) -> dict[str, Model]:
    """The model of the site that labels the organ: its own head and normalisation."""
    return {organ: Model(arm, organ) for organ in ORGANS}


SEGVIZ = Study(
    name="segviz",
    hospitals=_HOSPITALS,
    arms=_arms,
    rows={
        "one site": {organ: Model(f"alone-{organ}", organ) for organ in ORGANS},
        "FedAvg": _own("fedavg"),
        "FedBN": _own("fedbn"),
        "ConDistFL": dict.fromkeys(ORGANS, Model("condist")),
        "central": dict.fromkeys(ORGANS, Model("central", "central")),
    },
    tests={_EXTERNAL: ORGANS},
    report=_report,
)
