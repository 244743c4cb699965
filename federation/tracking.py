"""A job's rounds for TensorBoard or MLflow, logged where the coordinator runs.

TensorBoard gets one set of curves a site, drawn into the same charts; MLflow gets one run a job,
its metrics named ``SITE/loss``. What is over all sites is under ``all_sites``, which no site can be
called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

from federation.job import Job
from federation.progress import TOOK_PART, Entry, Round
from training.fit import Hook
from training.tracking import Tracked, check_trackers, mlflow_run, tensorboard

ALL_SITES = "all_sites"


def tracker(
    names: Sequence[str],
    out: Path,
    job_name: str,
    uri: str | None,
    *,
    rounds: int | None = None,
    fields: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[[Round], None] | None:
    """What is to be told of every round that made a model, ``None`` for no name.

    A round's number is its step. A site's numbers are its loss, ``dice/STRUCTURE``, seconds and
    bytes; ``all_sites`` has the plain means of loss and Dice over the sites that gave them, the
    round's seconds and overhead, and how many sites took part.

    Args:
        names: of ``training.TRACKERS``.
        out: the job's folder.
        job_name: the experiment's name in MLflow.
        uri: of :func:`training.tracking.mlflow_run`.
        rounds: of the job; MLflow's run is marked as finished at the last, without it never.
        fields: the job's settings, the run's parameters in MLflow.

    Raises:
        BadParameter: no such tracker, its package is missing, or a ``uri`` without MLflow.
    """
    check_trackers(names, uri)
    told: list[Callable[[Round], None]] = []
    if "tensorboard" in names:
        told.append(_tensorboard(out))
    if "mlflow" in names:
        tracked = Tracked(
            name=job_name,
            run=job_name,
            fields=fields,
            first=1,
            last=rounds,
            always=f"{ALL_SITES}/seconds",
        )
        told.append(_mlflow(mlflow_run(out, tracked, uri)))

    def tell_all(made: Round) -> None:
        for tell in told:
            tell(made)

    return tell_all if told else None


def tracker_of(
    job: Job, out: Path, names: Sequence[str], uri: str | None = None
) -> Callable[[Round], None] | None:
    """A job's :func:`tracker`, with its settings.

    Args:
        job: what is trained.
        out, names, uri: of :func:`tracker`.
    """
    fields = json.loads(job.to_json())
    return tracker(names, out, job.name, uri, rounds=job.rounds, fields=fields)


def _tensorboard(out: Path) -> Callable[[Round], None]:
    logs = {ALL_SITES: tensorboard(out, ALL_SITES)}

    def tell(made: Round) -> None:
        for name, numbers in _numbers(made).items():
            if name not in logs:
                logs[name] = tensorboard(out, name)
            logs[name]({"step": made.number, **numbers})

    return tell


def _mlflow(log: Hook) -> Callable[[Round], None]:
    def tell(made: Round) -> None:
        flat = {
            f"{name}/{number}": value
            for name, numbers in _numbers(made).items()
            for number, value in numbers.items()
        }
        log({"step": made.number, **flat})

    return tell


def _numbers(made: Round) -> dict[str, dict[str, float]]:
    """The numbers of a round, by site and then by name."""
    by_site = {entry.site: _learned(entry) for entry in made.entries}
    given: dict[str, list[float]] = {}
    for numbers in by_site.values():
        for name, value in numbers.items():
            given.setdefault(name, []).append(value)
    together = {name: fmean(values) for name, values in given.items()}
    together |= {
        "seconds": made.seconds,
        "overhead_s": made.overhead_s,
        "took_part": sum(entry.state == TOOK_PART for entry in made.entries),
    }
    each = {entry.site: by_site[entry.site] | _spent(entry) for entry in made.entries}
    return {ALL_SITES: together, **each}


def _learned(entry: Entry) -> dict[str, float]:
    loss = {} if entry.loss is None else {"loss": entry.loss}
    return loss | {f"dice/{name}": value for name, value in entry.dice.items()}


def _spent(entry: Entry) -> dict[str, float]:
    seconds = {} if entry.seconds is None else {"seconds": entry.seconds}
    return seconds | {"up_bytes": entry.up_bytes, "down_bytes": entry.down_bytes}
