"""A released model out of a real federation, and its twin that was trained in one place."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from federation.beginning import started
from federation.flare.local import kept, publish, run_local
from federation.home import Home
from federation.job import Job, scheduled
from federation.learner import cases_of
from federation.policy import FACTS, Policy
from federation.progress import ROUNDS, History
from federation.result import GLOBAL_MODEL
from imaging.errors import DataError
from imaging.files import write_whole
from models.onnxfile import read_manifest, redescribe
from models.store import DEFAULT_ALIAS, Store
from training.cache import cached
from training.fit import fit
from training.joining import join_files
from training.package import export_recipe, provenance_of
from training.prepared import Prepared
from training.recipe import Recipe

if TYPE_CHECKING:
    from federation.flare.coordinators import Standing

CENTRAL, SUMMARY = "central", "summary.json"
_DONE = "job.json"


def starter_job(
    recipe: Recipe, rounds: int, steps: int, strategy: str = "fedavg", **settings: Any
) -> Job:
    """The job of a federation of few cases a site.

    Every site counts the same where nothing else is said, since the numbers of its copies and
    phantoms say nothing. The last round's model is the global one: with one or two CTs a site none
    can be spared to choose by; phantoms that a site holds back score it. A site's say in the last
    layer are the structures that it labels.

    Args:
        recipe: what is trained; its phantoms are left to the sites' own data sets.
        rounds: of the job.
        steps: of a site in one round.
        strategy: key of ``federation.strategies.STRATEGIES``.
        settings: further fields of the job.
    """
    paced = dataclasses.replace(recipe, steps=steps, steps_per_epoch=steps, phantoms=0)
    return Job(
        recipe.name,
        scheduled(paced, rounds, 1),
        strategy=strategy,
        weighting="equal",
        label_aware=True,
        rounds=rounds,
        local_epochs=1,
        codec="fp16",
        score_every=rounds,
        **settings,
    )


def train_starter(
    job: Job,
    data: Mapping[str, Sequence[Path]],
    out: Path,
    store: Path,
    *,
    threads: int = 1,
    twin: bool = True,
    say: Callable[[Standing], None] = lambda _: None,
) -> dict[str, Any]:
    """Train the federation and its central twin, and publish all models in one store.

    What is there is not done again; what was stopped goes on.

    Args:
        job: of :func:`starter_job`.
        data: each site's data sets.
        out: folder of both trainings and of the summary.
        store: root of the store: ``NAME@global``, ``NAME@site-SITE`` and ``NAME@central``.
        threads: CPU threads of each site.
        twin: whether one is trained.
        say: told how the job stands.

    Returns:
        The summary, as ``out/summary.json`` has it.

    Raises:
        DataError: the folder holds a training of other settings.
        JobFailed: of :func:`federation.flare.local.run_local`.
    """
    homes = [
        Home(
            name,
            out / "sites" / name,
            tuple(folders),
            out / "stores" / name,
            # Everything may leave: all of it is on this machine.
            Policy(may_leave=FACTS),
            threads=threads,
        )
        for name, folders in data.items()
    ]
    federation = out / "federation"
    if not _ended(job, federation):
        run_local(job, homes, federation, say)
        write_whole(federation / _DONE, job.to_json().encode())
    name_sources(federation / "results" / GLOBAL_MODEL, job, homes)
    models = publish(job, homes, federation / "results", store)
    central = None
    if twin:
        seconds = _train_twin(job, homes, out / CENTRAL)
        central = {"steps": len(homes) * job.recipe.steps, "seconds": seconds}
        models.append(kept(Store(store), out / CENTRAL / "model.onnx", CENTRAL))
    summary = _summary(job, homes, federation / "results", central, models)
    keep_summary(summary, out)
    return summary


def keep_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Write what was done into the folder."""
    write_whole(out / SUMMARY, (json.dumps(summary, indent=1) + "\n").encode())


def join_published(recipe: Recipe, store: Path) -> list[str]:
    """Join the models of a recipe's parts, alias by alias, and publish what comes out.

    Args:
        recipe: of the whole.
        store: root of the store that holds the parts' models, under aliases that all of them have.

    Returns:
        A reference for each model.
    """
    known = Store(store)
    aliases = [set(known.aliases(name)) for name in recipe.parts.values()]
    made = []
    for alias in sorted(set.intersection(*aliases) - {DEFAULT_ALIAS}):
        sources = {p: known.resolve(f"{n}@{alias}").path for p, n in recipe.parts.items()}
        with tempfile.TemporaryDirectory(prefix="islet-join-") as folder:
            path = Path(folder) / "model.onnx"
            join_files(recipe, sources, path)
            made.append(kept(known, path, alias))
    return made


def name_sources(model: Path, job: Job, homes: Sequence[Home]) -> None:
    """Put the sites' data sets into the global model's manifest.

    A server does not know them; here all sites are of one owner, and a card must say whose CTs a
    released model learned from, and by which licence.
    """
    before = read_manifest(model).provenance
    known = [entry for entry in before.data if entry.get("name") == "federation"]
    cases = [case for home in homes for case in cases_of(home.data)[0]]
    named = provenance_of(job.recipe, cases, 0, 0).data
    rest = [entry for entry in before.data if entry not in known and entry not in named]
    data = (*known, *named, *rest)
    if data != before.data:
        redescribe(model, provenance=dataclasses.replace(before, data=data))


def _ended(job: Job, folder: Path) -> bool:
    """Whether the federation's end is in the folder.

    Raises:
        DataError: it is that of another job.
    """
    done = folder / _DONE
    if done.exists() and done.read_text(encoding="utf-8") != job.to_json():
        raise DataError(f"{folder} holds another training; name another folder with --out.")
    return done.exists()


def _train_twin(job: Job, homes: Sequence[Home], out: Path) -> float:
    """As many steps as all sites together, on all their cases, each site's as often as it counts.

    Returns:
        The seconds it took in all.
    """
    took = out / "seconds.json"
    if took.exists():
        return float(json.loads(took.read_text(encoding="utf-8")))
    recipe = twin_of(job.recipe, len(homes))
    began = time.monotonic()
    sets = [cases_of(home.data)[0] for home in homes]
    network, before = started(job)
    balanced = _balanced(job, recipe, homes)
    fitted = fit(recipe, balanced, out, initial=network.state_dict(), resume=True)
    cases = [case for cases in sets for case in cases]
    provenance = provenance_of(recipe, cases, 0, fitted.steps)
    provenance = dataclasses.replace(provenance, data=(*provenance.data, *before))
    export_recipe(fitted.network, recipe, provenance, out / "model.onnx")
    seconds = sum(float(entry.get("seconds", 0)) for entry in fitted.history)
    write_whole(took, json.dumps(seconds or time.monotonic() - began).encode())
    return seconds


def twin_of(recipe: Recipe, sites: int) -> Recipe:
    """A site's recipe, as long as all sites' trainings are together."""
    return dataclasses.replace(recipe, steps=sites * recipe.steps)


def _balanced(job: Job, recipe: Recipe, homes: Sequence[Home]) -> list[Prepared]:
    """All sites' cases, repeated until each site has as many as it counts."""
    sets = [
        [cached(case, recipe, home.folder / "cache") for case in cases_of(home.data)[0]]
        for home in homes
    ]
    counts = [Fraction(job.weight_of(home.name, 1)).limit_denominator(100) for home in homes]
    unit = math.lcm(*((len(s) / c).numerator for s, c in zip(sets, counts, strict=True)))
    return [
        case
        for cases, count in zip(sets, counts, strict=True)
        for case in cases * int(unit * count / len(cases))
    ]


def _summary(
    job: Job,
    homes: Sequence[Home],
    results: Path,
    central: dict[str, Any] | None,
    models: Sequence[str],
) -> dict[str, Any]:
    history = History.load(results / ROUNDS)
    entries = [entry for made in history.rounds for entry in made.entries]
    return {
        "recipe": job.recipe.name,
        "scale": job.recipe.scale,
        "strategy": job.strategy,
        "start": job.start,
        "rounds": job.rounds,
        "steps_a_site": job.recipe.steps,
        "sites": {
            home.name: {
                "cases": [case.name for case in cases_of(home.data)[0]],
                "annotated": sorted({n for c in cases_of(home.data)[0] for n in c.annotated}),
                "seconds": sum(e.seconds or 0 for e in entries if e.site == home.name),
                "up_bytes": sum(e.up_bytes for e in entries if e.site == home.name),
                "down_bytes": sum(e.down_bytes for e in entries if e.site == home.name),
                "last_loss": next((e.loss for e in entries[::-1] if e.site == home.name), None),
            }
            for home in homes
        },
        "seconds": sum(made.seconds for made in history.rounds),
        "overhead_seconds": sum(made.overhead_s for made in history.rounds),
        "central": central,
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "torch": torch.__version__,
        },
        "models": list(models),
    }
