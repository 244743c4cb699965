"""What trackers logged is read back by their own readers, whole after a kill and never doubled."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.telemetry import client as telemetry
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imaging.errors import BadParameter, DataError
from tests.training.tiny import cases, volumetric
from training.fit import fit
from training.tracking import MLFLOW_RUN, hooks, mlflow, tensorboard

RECIPE = volumetric(steps=8, steps_per_epoch=2)
EPOCHS: list[dict[str, Any]] = [
    {"epoch": n, "step": 2 * n, "loss": 1 / n, "lr": 0.01, "dice": {"kidney": 0.1 * n}, "best": "x"}
    for n in range(1, 5)
]
LOSSES = [(2, 1.0), (4, 0.5), (6, 1 / 3), (8, 0.25)]


def scalars(out: Path, name: str = "loss") -> list[tuple[int, float]]:
    """(step, value) of a curve, as TensorBoard shows it."""
    reader = EventAccumulator(str(out / "tensorboard"))
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(name)]


def metrics(out: Path, name: str = "loss", store: str | None = None) -> list[tuple[int, float]]:
    """(step, value) of a curve, as MLflow has it."""
    client = MlflowClient(store or f"sqlite:///{out / 'mlflow.db'}")
    run = (out / MLFLOW_RUN).read_text()
    return sorted((m.step, m.value) for m in client.get_metric_history(run, name))


def near(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    return [step for step, _ in found] == [step for step, _ in expected] and [
        value for _, value in found
    ] == pytest.approx([value for _, value in expected])


def test_every_number_of_an_epoch_is_in_both(tmp_path: Path) -> None:
    hook = hooks(["tensorboard", "mlflow"], tmp_path, RECIPE)
    assert hook is not None
    for epoch in EPOCHS:
        hook(epoch)
        # Before anything is closed, as after a kill.
        done = epoch["epoch"]
        assert near(scalars(tmp_path), LOSSES[:done])
        assert near(metrics(tmp_path), LOSSES[:done])
    dice = [(2, 0.1), (4, 0.2), (6, 0.3), (8, 0.4)]
    assert near(scalars(tmp_path, "dice.kidney"), dice)
    assert near(metrics(tmp_path, "dice.kidney"), dice)
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert set(reader.Tags()["scalars"]) == {"epoch", "loss", "lr", "dice.kidney"}
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run((tmp_path / MLFLOW_RUN).read_text())
    assert set(run.data.metrics) == {"epoch", "loss", "lr", "dice.kidney"}
    assert run.info.status == "FINISHED"


def test_the_recipe_is_the_runs_parameters_and_nothing_tells_who_trained_where(
    tmp_path: Path,
) -> None:
    out = tmp_path / "DOE_JOHN"
    mlflow(out, RECIPE)(EPOCHS[0])
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    run = client.get_run((out / MLFLOW_RUN).read_text())
    fields = json.loads(RECIPE.to_json())
    found = run.data.params
    assert found["architecture"] == "dynunet"
    assert found["steps"] == "8"
    assert found["options.filters"] == "[4, 8, 8]"
    assert float(found["optimizer.lr"]) == fields["optimizer"]["lr"]
    # What is empty has no name under which it could be a parameter.
    assert {name.split(".")[0] for name in found} == {n for n, v in fields.items() if v != {}}
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "tiny-seed-3"
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "tiny"
    assert "DOE" not in f"{run.to_dictionary()} {experiment.tags}"


def test_a_resumed_training_goes_on_in_the_same_curves(tmp_path: Path) -> None:
    first = hooks(["mlflow", "tensorboard"], tmp_path, RECIPE)
    assert first is not None
    for epoch in EPOCHS[:3]:
        first(epoch)
    run = (tmp_path / MLFLOW_RUN).read_text()
    # Resumed from the checkpoint of epoch 2: epoch 3 is trained, and told, again.
    again = hooks(["mlflow", "tensorboard"], tmp_path, RECIPE)
    assert again is not None
    for epoch in EPOCHS[2:]:
        again(epoch)
    assert near(scalars(tmp_path), LOSSES)
    assert near(metrics(tmp_path), LOSSES)
    assert (tmp_path / MLFLOW_RUN).read_text() == run


def test_a_training_begun_again_is_a_new_run(tmp_path: Path) -> None:
    for changed in (0.5, 0.25):
        hook = hooks(["mlflow", "tensorboard"], tmp_path, RECIPE)
        assert hook is not None
        hook({**EPOCHS[0], "loss": changed})
        run = (tmp_path / MLFLOW_RUN).read_text()
    assert near(scalars(tmp_path), [(2, 0.25)])
    assert near(metrics(tmp_path), [(2, 0.25)])
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 2
    assert client.get_run(run).data.metrics["loss"] == 0.25


def test_tracking_that_begins_late_starts_a_run_there(tmp_path: Path) -> None:
    mlflow(tmp_path, RECIPE)(EPOCHS[2])
    assert near(metrics(tmp_path), [(6, 1 / 3)])


def test_a_store_elsewhere_keeps_the_run(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'all.db'}"
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        mlflow(out, RECIPE, store)(EPOCHS[0])
        assert not (out / "mlflow.db").exists()
        assert near(metrics(out, store=store), [(2, 1.0)])
    # Resumed with another store than before.
    with pytest.raises(DataError, match="name the store it was logged to"):
        mlflow(outs[0], RECIPE)(EPOCHS[1])
    assert near(metrics(outs[0], store=store), [(2, 1.0)])


def test_fit_tells_it_of_every_epoch(tmp_path: Path) -> None:
    recipe = volumetric()
    hook = tensorboard(tmp_path)
    found = fit(
        recipe, cases(recipe), tmp_path, device="cpu", precision="fp32", quiet=True, hook=hook
    )
    assert near(scalars(tmp_path), [(e["step"], e["loss"]) for e in found.history])
    assert len(found.history) == 2


def test_mlflow_reports_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr(telemetry, "_MLFLOW_TELEMETRY_CLIENT", object())
    mlflow(tmp_path, RECIPE)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert telemetry.get_telemetry_client() is None


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("mlflow", "mlflow"),
        ("mlflow", "alembic"),
        ("mlflow", "sqlalchemy"),
        ("tensorboard", "torch.utils.tensorboard"),
    ],
)
def test_a_missing_package_is_refused_before_training(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadParameter, match=r"pip install 'islet-ct\[tracking\]'"):
        hooks([name], tmp_path, RECIPE)


def test_a_server_takes_no_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alembic", None)
    assert hooks(["mlflow"], tmp_path, RECIPE, "http://127.0.0.1:9") is not None


def test_names_are_checked(tmp_path: Path) -> None:
    assert hooks([], tmp_path, RECIPE) is None
    with pytest.raises(BadParameter, match=r"\['wandb'\]; choose from mlflow, tensorboard"):
        hooks(["mlflow", "wandb"], tmp_path, RECIPE)
    with pytest.raises(BadParameter, match="'http://x' is for the tracker mlflow"):
        hooks(["tensorboard"], tmp_path, RECIPE, "http://x")
    with pytest.raises(BadParameter, match=r"cannot log to gopher://x .* another address"):
        mlflow(tmp_path, RECIPE, "gopher://x")(EPOCHS[0])
    assert list(tmp_path.iterdir()) == []
