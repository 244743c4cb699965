"""What every strategy holds to, on real networks: shared tensors are equal everywhere, local ones
stay where they are. The published notebooks of SegViz fail at this."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from federation import message
from federation.coordinator import Coordinator
from federation.job import Job
from federation.parts import HEAD, NORMS
from federation.site import Site, _received
from federation.strategies import STRATEGIES
from tests.federation.sites import homes, job
from training.recipe import Loss, Optimizer, Recipe
from training.recipes import recipe as named_recipe

ORGANS = ("liver", "spleen", "pancreas", "kidney")
# Batch norms with running statistics, instance norms beside an autoencoder, instance norms.
NETWORKS = ("segviz", "wang2020", "kits21-scratch")


def small(name: str) -> Recipe:
    """A paper's network on blocks."""
    found = named_recipe(name, "tiny")
    outputs = ORGANS if name == "segviz" else ("pancreas", "kidney")
    vae = {"patch": [32, 32, 32]} if name == "wang2020" else {}
    weights = {"kl": found.loss.kl, "reconstruction": found.loss.reconstruction}
    return dataclasses.replace(
        found,
        outputs=outputs,
        cleanup=(),
        lesion_free=(),
        sampling=dataclasses.replace(found.sampling, spacing_mm=(2.5, 2.5, 2.5)),
        patch=(32, 32, 32),
        options={**found.options, **vae},
        loss=Loss("dice_ce", log_dice=True, **weights),
        optimizer=Optimizer("adamw", 1e-2),
        batch=1,
    )


def job_of(strategy: str, network: str, **changes: Any) -> Job:
    return job(small(network), strategy=strategy, score_every=5, **changes)


class Pair:
    """Two sites and their server, driven by hand."""

    def __init__(self, made: Job, out: Path) -> None:
        self.server = Coordinator(made, out / "server")
        sites = {"c1": ("pancreas",), "c2": ("kidney",)}
        self.sites = {h.name: Site(made, h) for h in homes(out, sites, count=2)}

    def round(self, order: tuple[str, ...] = ("c1", "c2")) -> None:
        for name in order:
            reply = self.sites[name].handle(self.server.request(name))
            self.server.accept(name, reply, 1.0)
        self.server.close_round()

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """Of a site's network in memory."""
        return copy.deepcopy(self.sites[name]._learning()._trainer.network.state_dict())

    def receive(self, name: str) -> None:
        """What a site does with a request before it trains."""
        header, arrays = message.unpack(self.server.request(name))
        site = self.sites[name]
        kept = site._holding.before(header["round"])
        site._learning().begin(header["round"], _received(header, arrays, kept), kept)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_shared_tensors_become_equal_and_local_ones_stay(
    strategy: str, network: str, tmp_path: Path
) -> None:
    made = job_of(strategy, network, local_head=network == "segviz" and strategy == "fedbn")
    pair = Pair(made, tmp_path)
    pair.round()
    shared = set(pair.server.reference)
    for name in pair.sites:
        before = pair.state(name)
        pair.receive(name)
        after = pair.state(name)
        assert set(after) >= shared
        for key, value in after.items():
            if key in shared:
                np.testing.assert_array_equal(value.numpy(), pair.server.reference[key], key)
            else:
                assert torch.equal(value, before[key]), f"{key} is {name}'s own"
        moved = [key for key in shared if not torch.equal(after[key], before[key])]
        assert len(moved) > 0.9 * len(shared), "averaging must change what two sites trained apart"
    local = set(pair.state("c1")) - shared
    assert bool(STRATEGIES[strategy].keeps & {NORMS, HEAD}) <= bool(local)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_of_sites_does_not_matter(strategy: str, tmp_path: Path) -> None:
    found = []
    for order in (("c1", "c2"), ("c2", "c1")):
        pair = Pair(job_of(strategy, "segviz"), tmp_path / order[0])
        for _ in range(2):
            pair.round(order)
        found.append(pair.server.reference)
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_sites_hold_what_the_server_thinks_they_hold_however_it_travels(
    codec: str, tmp_path: Path
) -> None:
    pair = Pair(job_of("fedavg", "segviz", codec=codec), tmp_path)
    pair.round()
    assert message.unpack(pair.server.request("c1"))[0]["base"] == 0, "a difference travels"
    for name in pair.sites:
        pair.receive(name)
        state = pair.state(name)
        for key, value in pair.server.reference.items():
            np.testing.assert_array_equal(state[key].numpy(), value, key)


def test_a_job_goes_on_bit_for_bit_where_server_and_sites_were_killed(tmp_path: Path) -> None:
    made = job_of("fedopt", "segviz", codec="int8", rounds=3)
    whole, cut = Pair(made, tmp_path / "whole"), Pair(made, tmp_path / "cut")
    for _ in range(3):
        whole.round()
    cut.round()
    # One site has answered, the other not: all of it is gone but for the disks.
    cut.server.accept("c1", cut.sites["c1"].handle(cut.server.request("c1")), 1.0)
    folders = {name: site.home for name, site in cut.sites.items()}
    cut.server = Coordinator(made, cut.server.folder)
    cut.sites = {name: Site(made, home) for name, home in folders.items()}
    assert (cut.server.round, cut.server.attempt) == (1, 2)
    cut.round()
    cut.round()
    for name, value in whole.server.reference.items():
        np.testing.assert_array_equal(value, cut.server.reference[name], name)
    told = [(r.number, r.attempt, len(r.entries)) for r in cut.server.history().rounds]
    assert told == [(1, 1, 2), (2, 1, 1), (2, 2, 2), (3, 1, 2)]
