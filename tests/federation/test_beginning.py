"""A job whose first round begins with a model that is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from federation.beginning import started
from federation.conduct import conduct
from federation.coordinator import Coordinator
from federation.result import GLOBAL_MODEL, finish
from imaging.errors import BadParameter, ModelNotFound
from models.onnxfile import read_manifest
from models.store import Store
from tests.federation.sites import job
from tests.federation.test_conduct import Sites, update
from tests.training.tiny import volumetric
from training.package import export_recipe, provenance_of
from training.trainer import initial_network


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A network whose weights are in the default store, as tiny@global."""
    monkeypatch.setenv("ISLET_STORE", str(tmp_path / "store"))
    recipe = volumetric(seed=99)
    network = initial_network(recipe).eval()
    path = tmp_path / "given.onnx"
    export_recipe(network, recipe, provenance_of(recipe, [], 0, 7), path)
    Store(tmp_path / "store", behind=()).publish(path, ["global"])
    return network


def weight(network: torch.nn.Module) -> np.ndarray:
    return next(p for p in network.parameters() if p.ndim > 1).detach().numpy()


def test_the_first_round_begins_with_its_weights(model: torch.nn.Module, tmp_path: Path) -> None:
    made = job(start="tiny@global")
    assert not np.array_equal(weight(initial_network(made.recipe)), weight(model))
    network, _ = started(made)
    np.testing.assert_array_equal(weight(network), weight(model))
    server = Coordinator(made, tmp_path / "job")
    name = next(n for n in server.reference if server.reference[n].ndim > 1)
    np.testing.assert_array_equal(server.reference[name], model.state_dict()[name].numpy())


def test_the_global_model_names_what_it_began_with(model: torch.nn.Module, tmp_path: Path) -> None:
    made = job(start="tiny@global")
    sites = Sites({"c1": update(1.0), "c2": update(1.0)})
    conduct(Coordinator(made, tmp_path / "job"), sites, clock=lambda: sites.now)
    # The store may have another model by the time that the server comes back.
    (tmp_path / "store").rename(tmp_path / "gone")
    finish(Coordinator(made, tmp_path / "job"))
    data = read_manifest(tmp_path / "job" / GLOBAL_MODEL).provenance.data
    assert data[0]["name"] == "federation"
    assert data[1]["name"].startswith("weights of tiny")


@pytest.mark.parametrize("changes", [{"strategy": "fedbn"}, {"local_head": True}])
def test_sites_that_keep_layers_cannot_begin_with_it(
    model: torch.nn.Module, changes: dict[str, object]
) -> None:
    with pytest.raises(BadParameter, match="layers of their own"):
        started(job(start="tiny@global", **changes))


def test_no_file_of_the_servers_is_read(model: torch.nn.Module, tmp_path: Path) -> None:
    for name in (str(tmp_path / "given.onnx"), "absent@global"):
        with pytest.raises(ModelNotFound):
            started(job(start=name))
