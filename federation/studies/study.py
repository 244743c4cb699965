"""A study: hospitals of phantoms, the trainings that are compared, and the table they end in."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from federation.home import Home
from federation.job import Job, scheduled
from federation.policy import FACTS, Policy
from federation.progress import Round
from federation.result import GLOBAL_MODEL
from federation.simulate import simulate
from federation.studies.cohorts import Hospital, held_out, write_sites
from federation.studies.tables import Found
from federation.tracking import tracker_of
from imaging.errors import BadParameter, DataError
from imaging.files import write_whole
from models.onnxfile import read_manifest
from models.store import Store, StoredModel
from training.cases import load
from training.evaluate import Score, score_case
from training.package import onnx_scorer
from training.recipe import Recipe, Scale
from training.reproduce.tables import Report

# What every party of an ended training was given; names the arm's folder as done.
_DONE = "job.json"
_PHANTOMS = "Made of phantoms, not of patients."


@dataclass(frozen=True)
class Arm:
    """One training of a study. A federation of one site is that site's training alone.

    Attributes:
        job: what is trained; its name is the arm's.
        sites: the sites that take part, each with the hospitals whose cases it has.
    """

    job: Job
    sites: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Model:
    """Where a model of a table comes from.

    Attributes:
        arm: name of the training.
        site: whose own best model it is; the global one where empty.
    """

    arm: str
    site: str = ""


@dataclass(frozen=True)
class Study:
    """A comparison of trainings.

    Attributes:
        name: of the study.
        hospitals: phantom sites; those that no arm names are for testing alone.
        arms: makes the trainings, from scale and seed; of those of one site the longest first.
        rows: of the table: for each mask that is scored, the model that is asked for it.
        tests: for each test set, a hospital's, the masks that its labels can judge.
        report: makes the table from the scores and a first line about the data.
    """

    name: str
    hospitals: tuple[Hospital, ...]
    arms: Callable[[Scale, int], tuple[Arm, ...]]
    rows: Mapping[str, Mapping[str, Model]]
    tests: Mapping[str, tuple[str, ...]]
    report: Callable[[Found, str], Report]


def run(
    study: Study,
    out: Path,
    *,
    scale: Scale = "tiny",
    seeds: Sequence[int] = (0,),
    data: Path | None = None,
    track: Sequence[str] = (),
    told: Callable[[Round], None] | None = None,
) -> Report:
    """Make the hospitals, train every arm, score every model; what is there is not done again.

    Arms of one site train side by side, one on each core; then the federations, one after another.

    Args:
        study: of ``federation.studies.STUDIES``.
        out: folder of the data, the trainings and their models, in ``out/seed-N``.
        scale: of the recipes.
        seeds: of patients and weights, one repetition each; their scores are pooled.
        data: folder with a data set for each hospital, in folders of their names; phantoms are
            made without one.
        track: of :data:`training.TRACKERS`, curves of every federation.
        told: called with every round of a federation that ended.

    Raises:
        BadParameter: ``data`` lacks a hospital.
        DataError: the folder holds a training of other settings.
        JobFailed: see :func:`federation.conduct.conduct`.
    """
    found: dict[str, dict[str, list[Score]]] = {
        row: {test: [] for test in study.tests} for row in study.rows
    }
    for seed in seeds:
        part = repetition(out, seed)
        folders = _folders(study, part, seed, data)
        arms = study.arms(scale, seed)
        notes = (_PHANTOMS,) if data is None else ()
        _train_alone([a for a in arms if len(a.sites) == 1], folders, part, notes)
        for arm in arms:
            if len(arm.sites) > 1:
                train(arm, folders, part, notes=notes, track=track, told=told)
        for row, models in study.rows.items():
            for test, masks in study.tests.items():
                found[row][test] += _scores(models, folders[test], masks, part)
    together = max(study.arms(scale, seeds[0]), key=lambda arm: len(arm.sites))
    return study.report(found, _about(study, together, seeds, data))


def repetition(out: Path, seed: int) -> Path:
    """The folder of one repetition of a study."""
    return out / f"seed-{seed}"


def publish(study: Study, part: Path, store: Store) -> list[StoredModel]:
    """Put the models of a repetition's table into a store, each row's under its name in small
    letters.

    Args:
        study: which one.
        part: of :func:`repetition`.
        store: to publish in; no model becomes ``live`` by this.
    """
    published = []
    for row, models in study.rows.items():
        alias = row.lower().replace(" ", "-")
        for path in dict.fromkeys(model_path(model, part) for model in models.values()):
            published.append(store.publish(path, [alias]))
    return published


def train(
    arm: Arm,
    folders: Mapping[str, Path],
    out: Path,
    *,
    workers: int | None = None,
    notes: tuple[str, ...] = (),
    track: Sequence[str] = (),
    told: Callable[[Round], None] | None = None,
) -> None:
    """Train one arm; one that ended is left as it is, one that was stopped goes on.

    Args:
        arm: what to train.
        folders: data set of each hospital.
        out: of the study; the arm has a folder of its name in it.
        workers, notes, told: as in :func:`federation.simulate.simulate`.
        track: of :func:`run`.

    Raises:
        DataError: the folder holds a training of other settings.
    """
    folder = out / arm.job.name
    if _ended(arm, folder):
        return
    # Everything may leave: all of it is on this machine.
    policy = Policy(may_leave=FACTS)
    homes = [
        Home(
            name=site,
            folder=folder / site,
            data=tuple(folders[hospital] for hospital in hospitals),
            store=folder / site / "store",
            policy=policy,
        )
        for site, hospitals in arm.sites.items()
    ]
    tracked = tracker_of(arm.job, folder, track)

    def tell(made: Round) -> None:
        for hear in (tracked, told):
            if hear is not None:
                hear(made)

    simulate(arm.job, homes, folder / "server", workers=workers, told=tell, notes=notes)
    write_whole(folder / _DONE, arm.job.to_json().encode())


def paced(recipe: Recipe, rounds: int, times: int = 1) -> tuple[Recipe, int]:
    """A recipe that a job of so many rounds can train, and its epochs in a round.

    Args:
        recipe: whose steps are about those of one site.
        rounds: of the job.
        times: how many times as long the training is.
    """
    epochs = times * max(1, recipe.steps // (rounds * recipe.steps_per_epoch))
    return scheduled(recipe, rounds, epochs), epochs


def model_path(model: Model, out: Path) -> Path:
    """The ONNX file of a model in the study's folder."""
    folder = out / model.arm
    return (
        folder / model.site / model.arm / "local.onnx"
        if model.site
        else folder / "server" / GLOBAL_MODEL
    )


def _train_alone(
    arms: Sequence[Arm], folders: Mapping[str, Path], out: Path, notes: tuple[str, ...]
) -> None:
    arms = [arm for arm in arms if not _ended(arm, out / arm.job.name)]
    if not arms:
        return
    # Processes, not threads: each seeds torch's one generator for its first weights.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(arms), os.cpu_count() or 1), mp_context=spawn) as pool:
        one = functools.partial(train, folders=folders, out=out, workers=0, notes=notes)
        list(pool.map(one, arms))


def _folders(study: Study, part: Path, seed: int, data: Path | None) -> dict[str, Path]:
    """The data set of each hospital."""
    if data is None:
        return write_sites(study.hospitals, part / "data", seed)
    folders = {hospital.name: data / hospital.name for hospital in study.hospitals}
    missing = [name for name, folder in folders.items() if not folder.is_dir()]
    if missing:
        raise BadParameter(f"{data} has no folder for {', '.join(missing)}; each holds a data set.")
    return folders


def _ended(arm: Arm, folder: Path) -> bool:
    """Whether a folder holds the end of the arm's training.

    Raises:
        DataError: it holds that of another one.
    """
    done = folder / _DONE
    if not done.exists():
        return False
    if done.read_text(encoding="utf-8") != arm.job.to_json():
        raise DataError(f"{folder} holds another training; name another folder with --out.")
    return True


def _scores(
    models: Mapping[str, Model], folder: Path, masks: Sequence[str], out: Path
) -> list[Score]:
    """Scores of the test cases of a data set, each mask by its own model."""
    asked: dict[Path, list[str]] = {}
    for mask in masks:
        path = model_path(models[mask], out)
        asked.setdefault(path, []).append(mask)
    judges = [(read_manifest(p), onnx_scorer(p), own) for p, own in asked.items()]
    return [
        score
        for case in map(load, held_out(folder))
        for manifest, scorer, own in judges
        for score in score_case(case, manifest, scorer, masks=own)
    ]


def _about(study: Study, arm: Arm, seeds: Sequence[int], data: Path | None) -> str:
    made = ", ".join(f"{h.train} and {h.test} of {h.name}" for h in study.hospitals)
    what = f"Phantoms, not patients; cases to train and to test on: {made}"
    if data is not None:
        what = f"Cases of {', '.join(h.name for h in study.hospitals)}"
    told = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return (
        f"{what}. Scale {arm.job.recipe.scale}, {told}, {arm.job.recipe.steps} steps a site in "
        f"{arm.job.rounds} rounds."
    )
