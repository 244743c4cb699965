"""The end of a job: what is chosen, what is handed to the sites, and when there is no global model.

The export itself is held to account by the recipes' tests; here it is watched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from federation import message, result
from federation.coordinator import MATRIX, Coordinator
from federation.job import Job
from federation.parts import Weights
from federation.result import finish
from tests.federation.sites import job
from tests.training.tiny import volumetric
from training.trainer import initial_network

# 68 tensors, batch norm among them.
NORMED = volumetric(architecture="segviz_unet", options={"filters": [2, 2, 2, 2, 2]})


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The models that were exported, without a file of ONNX."""
    found: list[dict[str, Any]] = []

    def export(
        network: nn.Module, recipe: Any, provenance: Any, path: Path, *, scores: Any = None
    ) -> None:
        state = {name: value.clone() for name, value in network.state_dict().items()}
        found.append({"state": state, "provenance": provenance, "scores": scores})
        found[-1]["training"] = network.training
        path.write_bytes(b"a model")

    monkeypatch.setattr(result, "export_recipe", export)
    return found


def ended(made: Job, folder: Path, norms: dict[str, Weights] | None = None) -> Coordinator:
    """Two rounds in which each site moved every weight by 1; the first one's model is better."""
    coordinator = Coordinator(made, folder, "id-7")
    for number in (1, 2):
        for site, cases in (("c1", 3), ("c2", 1)):
            coordinator.request(site)
            update = {f"update/{n}": np.ones_like(a) for n, a in coordinator.reference.items()}
            header = {"kind": "done", "round": number - 1, "attempt": 1, "facts": {"cases": cases}}
            scales = {"update/@scales": np.empty(0, np.float32)}
            coordinator.accept(site, message.pack(header, update | scales), 1.0)
        coordinator.close_round()
    for name, dice in (("round-1", 0.75), ("round-2", 0.5)):
        for site in ("c1", "c2"):
            coordinator.candidates.scored(name, site, {"kidney": dice}, (norms or {}).get(site, {}))
    return coordinator


def test_the_chosen_model_goes_to_the_sites(tmp_path: Path, exported: list[dict[str, Any]]) -> None:
    coordinator = ended(job(), tmp_path)
    header, arrays = message.unpack(finish(coordinator))
    assert header == {"kind": "finish", "chosen": "round-1"}
    assert arrays["onnx"].tobytes() == b"a model"
    assert (tmp_path / result.GLOBAL_MODEL).read_bytes() == b"a model"
    assert (tmp_path / "report.html").stat().st_size > 0

    matrix = json.loads((tmp_path / MATRIX).read_text())
    assert matrix["chosen"] == "round-1"
    assert matrix["scores"]["round-1"]["c1"] == {"kidney": 0.75}

    (made,) = exported
    chosen = coordinator.candidates.weights("round-1")
    for name, value in chosen.items():
        assert np.array_equal(made["state"][name].numpy(), value), name
    assert not made["training"]
    about = made["provenance"]
    assert (about.scope, about.round, about.job) == ("global", 1, "id-7")
    assert about.data == ({"name": "federation", "sites": 2, "cases": 4},)
    assert made["scores"] == {"federation": matrix["scores"]["round-1"]}


@pytest.mark.parametrize(
    "changes", [{"local_head": True}, {"strategy": "fedbn"}, {"strategy": "fedbn", "codec": "int8"}]
)
def test_without_all_of_it_there_is_no_global_model(
    tmp_path: Path, exported: list[dict[str, Any]], changes: dict[str, Any]
) -> None:
    coordinator = ended(job(NORMED, **changes), tmp_path)
    header, arrays = message.unpack(finish(coordinator))
    assert header == {"kind": "finish", "chosen": "round-1"}
    assert arrays == {}
    assert exported == []
    assert not (tmp_path / result.GLOBAL_MODEL).exists()
    assert json.loads((tmp_path / MATRIX).read_text())["chosen"] == "round-1"
    assert (tmp_path / "report.html").exists()


def test_an_unseen_hospital_has_the_pooled_norms(
    tmp_path: Path, exported: list[dict[str, Any]]
) -> None:
    made = job(NORMED, strategy="fedbn")
    network = initial_network(made.recipe)
    shapes = {
        n: tuple(t.shape)
        for n, t in network.state_dict().items()
        if ".adn.N." in n and t.is_floating_point()
    }
    # With 3 cases to 1: a mean of 2 and 6 is 3; variances of 1 are 1 + (3 * 1 + 1 * 9) / 4.
    norms = {
        site: {n: np.full(s, 1 if "running_var" in n else v, np.float32) for n, s in shapes.items()}
        for site, v in (("c1", 2), ("c2", 6))
    }
    finish(ended(made, tmp_path, norms))
    state = exported[0]["state"]
    for name in shapes:
        assert torch.all(state[name] == (4 if "running_var" in name else 3)), name
