"""Sites on disk, small enough to train in a second."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from federation.home import Home
from federation.job import Job, scheduled
from federation.policy import FACTS, Policy
from models.labels import BY_NAME
from tests.training.tiny import NAMES, flat, loaded, volumetric
from training.phantoms.sets import write_decathlon
from training.recipe import Recipe


def write_blocks(
    out: Path, first: int, count: int, annotated: tuple[str, ...] = NAMES, prefix: str = "blocks"
) -> Path:
    """A data set of blocks in the Decathlon's layout, labelled for some of them."""
    cases = [(f"{prefix}_{seed}", loaded(seed)) for seed in range(first, first + count)]
    meta = {
        "name": "blocks",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(BY_NAME[n].value): n for n in annotated}},
        "islet_annotated": list(annotated),
    }

    def known(case: Any) -> Any:
        values = [BY_NAME[n].value for n in annotated]
        labels = case.labels.array
        return case.labels.with_array(labels * (labels[..., None] == values).any(-1))

    write_decathlon(out, ((name, case.image, known(case)) for name, case in cases), meta)
    return out


def homes(
    out: Path,
    annotated: dict[str, tuple[str, ...]] | None = None,
    count: int = 5,
    policy: Policy | None = None,
) -> list[Home]:
    """Sites with blocks of their own; five cases are four to train on and one to validate on."""
    sites = annotated or {"c1": NAMES, "c2": NAMES}
    return [
        Home(
            name=name,
            folder=out / name / "state",
            data=(write_blocks(out / name / "data", 100 * i, count + i, names),),
            store=out / name / "store",
            policy=policy or Policy(may_leave=FACTS),
        )
        for i, (name, names) in enumerate(sites.items(), 1)
    ]


def job(recipe: Recipe | None = None, rounds: int = 2, **changes: Any) -> Job:
    """A job of rounds with one epoch of two steps each."""
    recipe = dataclasses.replace(recipe or volumetric(), steps_per_epoch=2)
    recipe = scheduled(recipe, rounds, 1)
    usual: dict[str, Any] = {
        "name": "blocks",
        "recipe": recipe,
        "rounds": rounds,
        "local_epochs": 1,
        "grace_s": 30.0,
        "round_timeout_s": 120.0,
    }
    return Job(**{**usual, **changes})


def flat_job(rounds: int = 2, **changes: Any) -> Job:
    """The same of slices: real processes train it without MONAI, which takes seconds to import."""
    return job(flat(name="tiny"), rounds, **changes)
