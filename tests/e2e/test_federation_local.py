"""The command that shows a whole federation on one machine, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from federation.flare.home import environment
from models.onnxfile import read_manifest
from models.store import Store
from tests.federation.sites import homes, job

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_federation_on_one_machine(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sites = homes(tmp_path / "homes")
    (tmp_path / "job.json").write_text(job(rounds=1).to_json())
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
        assert f"round 1/1  {home.name}  took part" in done.stderr
    model = read_manifest(out / "results" / "global.onnx")
    for home in sites:
        store = Store(out / "stores" / home.name, behind=())
        assert store.aliases(model.name).keys() == {"global", f"site-{home.name}"}
    left = [p for p in psutil.process_iter(["cmdline"]) if str(out) in str(p.info["cmdline"])]
    assert not left
