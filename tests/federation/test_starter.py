"""A federation and its twin: same cases, same steps, all models in one store, done once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from federation import starter
from federation.flare.local import kept
from federation.home import Home
from federation.job import Job
from federation.simulate import simulate
from federation.starter import SUMMARY, starter_job, train_starter, twin_of
from imaging.errors import DataError
from models.store import Store
from tests.federation.sites import write_blocks
from tests.training.test_pretraining import learned, published
from tests.training.tiny import volumetric
from training.assess.cost import training_seconds
from training.fit import Fitted, fit


def alone(job: Job, homes: Sequence[Home], out: Path, say: Any) -> Path:
    """The federation in this process, with the results where the engine's are."""
    del say
    simulate(job, homes, out / "results", workers=0)
    return out / "results"


@pytest.fixture
def job() -> Job:
    return starter_job(volumetric(phantoms=3), rounds=2, steps=2)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, tuple[Path, ...]]:
    return {
        "a": (write_blocks(tmp_path / "a", 0, 1), write_blocks(tmp_path / "a2", 1, 1)),
        "b": (write_blocks(tmp_path / "b", 10, 3, ("kidney",)),),
    }


def test_the_job_is_one_of_few_cases(job: Job) -> None:
    assert (job.rounds, job.recipe.steps, job.recipe.steps_per_epoch) == (2, 4, 2)
    # Phantoms are some site's own data, not every site's.
    assert job.recipe.phantoms == 0
    assert (job.weighting, job.label_aware) == ("equal", True)
    assert twin_of(job.recipe, 4) == dataclasses.replace(job.recipe, steps=16)


def test_all_models_are_in_one_store_with_what_they_are(
    job: Job,
    data: dict[str, tuple[Path, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starter, "run_local", alone)
    trained: list[Any] = []

    def watched(*args: Any, **options: Any) -> Fitted:
        trained.append(args[1])
        return fit(*args, **options)

    monkeypatch.setattr(starter, "fit", watched)
    out, store = tmp_path / "out", tmp_path / "store"
    summary = train_starter(job, data, out, store)
    found = Store(store, behind=())
    assert found.aliases("tiny") == {"central": 4, "global": 1, "site-a": 2, "site-b": 3}
    scopes = {a: found.resolve(f"tiny@{a}").manifest.provenance for a in found.aliases("tiny")}
    assert [scopes[a].scope for a in sorted(scopes)] == ["central", "global", "local", "local"]
    assert (scopes["global"].round, scopes["site-b"].site) == (2, "b")
    assert scopes["central"].steps == 2 * (scopes["global"].steps or 0) == 8
    assert sum(entry["cases"] for entry in scopes["central"].data) == 5
    # The server knows no data; the one that runs all sites does.
    assert [e["name"] for e in scopes["global"].data] == [
        "federation",
        *(e["name"] for e in scopes["central"].data),
    ]
    # Two cases and three: each site is drawn from as often as the other.
    (pool,) = trained
    counts = [sum(case.name == name for case in pool) for name in ("blocks_0", "blocks_10")]
    assert (len(pool), counts) == (12, [3, 2])
    assert [c.annotated for c in pool if c.name == "blocks_10"] == [("kidney",)] * 2
    assert json.loads((out / SUMMARY).read_text()) == json.loads(json.dumps(summary))
    sites = summary["sites"]
    assert sites["b"]["cases"] == ["blocks_10", "blocks_11", "blocks_12"]
    assert sites["b"]["annotated"] == ["kidney"]
    assert all(site["up_bytes"] > 1000 and site["down_bytes"] > 1000 for site in sites.values())
    assert summary["central"]["steps"] == 8
    assert training_seconds(out / "federation") == pytest.approx(summary["seconds"])

    monkeypatch.setattr(starter, "run_local", lambda *a: pytest.fail("federated twice"))
    monkeypatch.setattr(starter, "fit", lambda *a, **k: pytest.fail("trained twice"))
    assert train_starter(job, data, out, store)["models"] == summary["models"]
    assert found.versions("tiny") == [1, 2, 3, 4]
    without = train_starter(job, data, out, store, twin=False)
    assert without["central"] is None
    assert f"tiny@{found.aliases('tiny')['central']}" not in without["models"]
    other = dataclasses.replace(job, rule="worst")
    with pytest.raises(DataError, match="holds another training"):
        train_starter(other, data, out, store)


def test_the_twin_draws_from_each_site_as_often_as_it_counts(
    job: Job,
    data: dict[str, tuple[Path, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starter, "run_local", alone)
    trained: list[Any] = []

    def watched(*args: Any, **options: Any) -> Fitted:
        trained.append(args[1])
        return fit(*args, **options)

    monkeypatch.setattr(starter, "fit", watched)
    weighed = dataclasses.replace(job, weights={"a": 4, "b": 1.5})
    train_starter(weighed, data, tmp_path / "out", tmp_path / "store")
    (pool,) = trained
    # Two cases that count four, three that count one and a half: two to a half each.
    counts = [sum(case.name == name for case in pool) for name in ("blocks_0", "blocks_10")]
    assert counts == [4, 1]


def test_an_alias_moves_to_another_model_alone(tmp_path: Path) -> None:
    one = published(volumetric(), tmp_path / "one.onnx")
    store = Store(tmp_path / "store", behind=())
    assert kept(store, one, "global") == kept(store, one, "global") == "tiny@1 (global)"
    network = learned(volumetric())
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    two = published(volumetric(), tmp_path / "two.onnx", network)
    assert kept(store, two, "global") == "tiny@2 (global)"
    assert store.aliases("tiny") == {"global": 2}
