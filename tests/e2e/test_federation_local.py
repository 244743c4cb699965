"""The command that shows a whole federation on one machine, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from federation import message
from federation.conduct import conduct_rounds
from federation.coordinator import Coordinator
from federation.flare.home import environment
from federation.home import Home
from federation.job import Job
from federation.parts import Weights
from federation.simulate import Lanes
from models.onnxfile import read_manifest
from models.store import Store
from tests.federation.sites import homes, job

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def simulated_weights(made: Job, sites: list[Home], out: Path) -> Weights:
    """The global weights of the same job without a network."""
    fresh = [dataclasses.replace(home, folder=out / home.name) for home in sites]
    server = Coordinator(made, out / "server")
    with Lanes(made, fresh, 0) as lanes:
        conduct_rounds(server, lanes)
    return server.reference


def test_a_federation_on_one_machine(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sites = homes(tmp_path / "homes")
    made = job(rounds=2)
    (tmp_path / "job.json").write_text(made.to_json())
    command = ["federate", "local", str(tmp_path / "job.json"), "-o", str(out)]
    for home in sites:
        command += ["--site", home.name, str(home.data[0])]
    done = subprocess.run(
        [sys.executable, "-m", "islet", *command],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(1),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for home in sites:
        assert f"round 2/2  {home.name}  took part" in done.stderr
    model = read_manifest(out / "results" / "global.onnx")
    for home in sites:
        store = Store(out / "stores" / home.name, behind=())
        assert store.aliases(model.name).keys() == {"global", f"site-{home.name}"}
    simulated = simulated_weights(made, sites, tmp_path / "simulated")
    found = next((out / "kits" / "server").rglob("candidates/round-2.bin"))
    real = message.unpack(found.read_bytes())[1]
    assert real.keys() == simulated.keys()
    for name, value in simulated.items():
        np.testing.assert_allclose(real[name], value, atol=1e-6, rtol=0, err_msg=name)
    left = [p for p in psutil.process_iter(["cmdline"]) if str(out) in str(p.info["cmdline"])]
    assert not left
