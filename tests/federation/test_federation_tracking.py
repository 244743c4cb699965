"""Rounds that were tracked are read back by the trackers' own readers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from federation.tracking import tracker
from imaging.errors import BadParameter
from tests.federation.histories import a_round, entry, nothing

ROUNDS = [
    a_round(1, entry("c1", loss=1.0, dice={}), nothing("c2", "absent")),
    a_round(
        2,
        entry("c1", loss=0.5, dice={"pancreas": 0.25}),
        entry("c2", loss=0.25, dice={"pancreas": 0.75, "tumor": 0.125}),
    ),
    a_round(3, nothing("c1", "failed"), entry("c2", "late", loss=None, dice={"tumor": 0.5})),
]
FIELDS = {"rounds": 3, "recipe": {"lr": 0.5, "outputs": ["pancreas", "tumor"]}}
Curve = list[tuple[int, float]]


def tensorboard_curves(out: Path, name: str) -> dict[str, Curve]:
    reader = EventAccumulator(str(out / "tensorboard" / name))
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def mlflow_curve(out: Path, name: str) -> Curve:
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    run = (out / "mlflow_run_id").read_text()
    return sorted((m.step, m.value) for m in client.get_metric_history(run, name))


def test_tensorboard_has_curves_a_site_and_over_all(tmp_path: Path) -> None:
    tell = tracker(["tensorboard"], tmp_path, "wang2020", None)
    assert tell is not None
    for made in ROUNDS:
        tell(made)
    c1, c2 = tensorboard_curves(tmp_path, "c1"), tensorboard_curves(tmp_path, "c2")
    assert c1["loss"] == [(1, 1.0), (2, 0.5)]
    assert c1["dice/pancreas"] == [(2, 0.25)]
    assert c1["up_bytes"] == [(1, 410_000), (2, 410_000), (3, 0)]
    assert c1["seconds"] == [(1, pytest.approx(31.2)), (2, pytest.approx(31.2))]
    assert c2["loss"] == [(2, 0.25)]
    assert c2["dice/tumor"] == [(2, 0.125), (3, 0.5)]
    assert tensorboard_curves(tmp_path, "all_sites") == {
        "loss": [(1, 1.0), (2, 0.375)],
        "dice/pancreas": [(2, 0.5)],
        "dice/tumor": [(2, 0.125), (3, 0.5)],
        "seconds": [(1, 40.0), (2, 40.0), (3, 40.0)],
        "overhead_s": [(1, 2.5), (2, 2.5), (3, 2.5)],
        "took_part": [(1, 1), (2, 2), (3, 0)],
    }


def test_mlflow_has_one_run_a_job_also_after_a_restart(tmp_path: Path) -> None:
    # The coordinator was killed after it told of round 2 and before it remembered that.
    for told in (ROUNDS[:2], ROUNDS[1:]):
        tell = tracker(["mlflow"], tmp_path, "wang2020", None, rounds=3, fields=FIELDS)
        assert tell is not None
        for made in told:
            tell(made)
    assert mlflow_curve(tmp_path, "c1/loss") == [(1, 1.0), (2, 0.5)]
    assert mlflow_curve(tmp_path, "c2/dice/tumor") == [(2, 0.125), (3, 0.5)]
    assert mlflow_curve(tmp_path, "all_sites/took_part") == [(1, 1), (2, 2), (3, 0)]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run((tmp_path / "mlflow_run_id").read_text())
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "wang2020"
    assert run.data.params == {
        "rounds": "3",
        "recipe.lr": "0.5",
        "recipe.outputs": '["pancreas", "tumor"]',
    }


def test_many_settings_are_all_kept(tmp_path: Path) -> None:
    fields = {f"recipes.c{n}": n for n in range(230)}
    tell = tracker(["mlflow"], tmp_path, "wang2020", None, fields=fields)
    assert tell is not None
    tell(ROUNDS[0])
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run((tmp_path / "mlflow_run_id").read_text())
    assert run.data.params == {name: str(n) for name, n in fields.items()}
    # How many rounds there are was not said.
    assert run.info.status == "RUNNING"


def test_tensorboard_forgets_a_round_that_is_told_again(tmp_path: Path) -> None:
    for told in (ROUNDS[:2], ROUNDS[1:]):
        tell = tracker(["tensorboard"], tmp_path, "wang2020", None)
        assert tell is not None
        for made in told:
            tell(made)
        # Files are read in the order of their names, which hold the second, then a count as text.
        time.sleep(1.0)
    assert tensorboard_curves(tmp_path, "c1")["loss"] == [(1, 1.0), (2, 0.5)]
    assert tensorboard_curves(tmp_path, "all_sites")["took_part"] == [(1, 1), (2, 2), (3, 0)]


def test_names_are_checked(tmp_path: Path) -> None:
    assert tracker([], tmp_path, "wang2020", None) is None
    with pytest.raises(BadParameter, match=r"\['wandb'\]; choose from mlflow, tensorboard"):
        tracker(["wandb"], tmp_path, "wang2020", None)
    with pytest.raises(BadParameter, match="'http://x' is for the tracker mlflow"):
        tracker(["tensorboard"], tmp_path, "wang2020", "http://x")
    assert list(tmp_path.iterdir()) == []
