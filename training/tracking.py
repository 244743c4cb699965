"""Hooks of ``fit`` that log a training for TensorBoard or MLflow.

Both packages are an extra and are imported only where they are asked for. Whatever a hook was told
of is on disk, or on the server, when it returns: a training may be killed at any time. One that is
resumed goes on in the same curves, and no epoch is in them twice.
"""

from __future__ import annotations

import importlib
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imaging.errors import BadParameter, DataError
from imaging.files import write_whole
from training import TRACKERS
from training.fit import Hook
from training.recipe import Recipe

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Below a run's folder.
TENSORBOARD, MLFLOW, MLFLOW_RUN = "tensorboard", "mlflow.db", "mlflow_run_id"
# MLflow takes no more parameters than this at once.
_PARAMS = 100


def hooks(names: Sequence[str], out: Path, recipe: Recipe, uri: str | None = None) -> Hook | None:
    """One hook for all trackers named, ``None`` for no name.

    Args:
        names: of :data:`training.TRACKERS`.
        out: the run's folder.
        recipe: what is trained.
        uri: of :func:`mlflow`.

    Raises:
        BadParameter: no such tracker, its package is missing, or a ``uri`` without MLflow.
    """
    check_trackers(names, uri)
    made: list[Hook] = []
    if "tensorboard" in names:
        made.append(tensorboard(out))
    if "mlflow" in names:
        made.append(mlflow(out, recipe, uri))

    def tell_all(entry: dict[str, Any]) -> None:
        for hook in made:
            hook(entry)

    return tell_all if made else None


def check_trackers(names: Sequence[str], uri: str | None) -> None:
    """Refuse names of no tracker, and an address that none of those named takes.

    Raises:
        BadParameter: names it.
    """
    unknown = sorted(set(names) - set(TRACKERS))
    if unknown:
        raise BadParameter(f"There is no tracker {unknown}; choose from {', '.join(TRACKERS)}.")
    if uri is not None and "mlflow" not in names:
        raise BadParameter(f"The address {uri!r} is for the tracker mlflow, which is not named.")


def tensorboard(out: Path, curves: str = "") -> Hook:
    """Scalars in ``out/tensorboard``, one event file a start of the training.

    Args:
        out: the run's folder.
        curves: a name of its own for these, where a folder has several; TensorBoard draws those of
            the same scalar into one chart.

    Raises:
        BadParameter: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _missing("TensorBoard") from error
    writer: SummaryWriter | None = None

    def log(entry: dict[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            # What an earlier start logged from this step on is forgotten by its readers.
            writer = SummaryWriter(str(out / TENSORBOARD / curves), purge_step=entry["step"])
        for name, value in _numbers(entry).items():
            writer.add_scalar(name, value, entry["step"])
        writer.flush()

    return log


def mlflow(out: Path, recipe: Recipe, uri: str | None = None) -> Hook:
    """A run of MLflow: the recipe's fields as parameters, an epoch's numbers as metrics.

    Args:
        out: the run's folder.
        recipe: what is trained; its name is the experiment's.
        uri: of :func:`mlflow_run`.

    Raises:
        BadParameter, DataError: those of :func:`mlflow_run`.
    """
    tracked = Tracked(
        name=recipe.name,
        # With a name given MLflow draws none from Python's generator.
        run=f"{recipe.name}-seed-{recipe.seed}",
        fields=json.loads(recipe.to_json()),
        first=min(recipe.steps_per_epoch, recipe.steps),
        last=recipe.steps,
        always="loss",
    )
    return mlflow_run(out, tracked, uri)


@dataclass(frozen=True)
class Tracked:
    """What a run of MLflow is about.

    Attributes:
        name: of the experiment.
        run: name of the run.
        fields: settings, its parameters; nested ones are joined with dots.
        first: step of the first entry; a run told of a later one first goes on.
        last: step of the last entry, ``None`` where it is not known.
        always: name of a number that every entry has.
    """

    name: str
    run: str
    fields: Mapping[str, Any]
    first: int
    last: int | None
    always: str


def mlflow_run(out: Path, tracked: Tracked, uri: str | None = None) -> Hook:
    """A run of MLflow, each entry's numbers its metrics at ``entry["step"]``.

    The run's id is kept in ``out/mlflow_run_id``. What starts at its first step is a new run; what
    goes on adds the steps that its run does not have yet. The run is marked as finished at the last
    step; one that stops early stays marked as running.

    The store is opened at the first entry, by the one process that logs. A run carries the name of
    neither its folder nor a person, and MLflow's report to its makers is switched off.

    Args:
        out: the run's folder.
        tracked: what it is about.
        uri: of a tracking server or store; without one it is ``out/mlflow.db`` (SQLite).

    Raises:
        BadParameter: MLflow is not installed; from the hook, no store to use under ``uri``.
        DataError: from the hook, a run that goes on and is not in the store.
    """
    _import_mlflow(store=uri is None)
    run: _MlflowRun | None = None

    def log(entry: dict[str, Any]) -> None:
        nonlocal run
        if run is None:
            out.mkdir(parents=True, exist_ok=True)
            client = _client(uri or f"sqlite:///{(out / MLFLOW).resolve()}")
            goes_on = entry["step"] > tracked.first and (out / MLFLOW_RUN).exists()
            run = (_known_run if goes_on else _new_run)(client, out, tracked)
        run.log(entry)
        if tracked.last is not None and entry["step"] >= tracked.last:
            run.client.set_terminated(run.id)

    return log


@dataclass(frozen=True)
class _MlflowRun:
    """A run in its store, and the last step that it had when it was opened."""

    client: MlflowClient
    id: str
    last: int

    def log(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        if entry["step"] > self.last:
            now, step = int(1000 * time.time()), entry["step"]
            found = [Metric(name, value, now, step) for name, value in _numbers(entry).items()]
            self.client.log_batch(self.id, found)


def _import_mlflow(store: bool) -> None:
    """Import MLflow, with what a local store takes, and switch its reporting off."""
    # A hospital's training tells nobody of itself.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        for package in ("mlflow", *(("sqlalchemy", "alembic") if store else ())):
            importlib.import_module(package)
    except ImportError as error:
        raise _missing("MLflow") from error
    from mlflow.telemetry import set_telemetry_client

    # Others may have imported MLflow before (MONAI does), when the variable was not set yet.
    set_telemetry_client()  # type: ignore[no-untyped-call]


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with warnings.catch_warnings():
        # MLflow 3.17 with SQLAlchemy 2.1, which it allows.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
        try:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        except MlflowException as error:
            raise BadParameter(
                f"MLflow cannot log to {uri} ({error}); name another address."
            ) from error
    return client


def _new_run(client: MlflowClient, out: Path, tracked: Tracked) -> _MlflowRun:
    from mlflow.entities import Param

    there = client.get_experiment_by_name(tracked.name)
    experiment = there.experiment_id if there else client.create_experiment(tracked.name)
    run = client.create_run(experiment, run_name=tracked.run)
    params = [Param(name, _text(value)) for name, value in _flat(tracked.fields).items()]
    for start in range(0, len(params), _PARAMS):
        client.log_batch(run.info.run_id, params=params[start : start + _PARAMS])
    write_whole(out / MLFLOW_RUN, run.info.run_id.encode())
    return _MlflowRun(client, run.info.run_id, -1)


def _known_run(client: MlflowClient, out: Path, tracked: Tracked) -> _MlflowRun:
    from mlflow.exceptions import MlflowException

    name = (out / MLFLOW_RUN).read_text(encoding="utf-8").strip()
    try:
        client.get_run(name)
    except MlflowException as error:
        raise DataError(
            f"{out / MLFLOW_RUN} names the run {name!r}, which is not in MLflow's store ({error}); "
            "name the store it was logged to, or delete the file to begin a new run."
        ) from error
    logged = client.get_metric_history(name, tracked.always)
    return _MlflowRun(client, name, max((metric.step for metric in logged), default=-1))


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a history's entry by name, but for the step that they belong to."""
    flat = {name: value for name, value in _flat(entry).items() if name != "step"}
    return {name: float(value) for name, value in flat.items() if isinstance(value, int | float)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, the names joined with dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _missing(package: str) -> BadParameter:
    return BadParameter(
        f"{package} is not installed; install it with: pip install 'islet-ct[tracking]'"
    )
