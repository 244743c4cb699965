"""A bento, built offline and served: the same bytes as the pipeline's."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from imaging.writers.nifti import write_nifti
from models.store import Store
from serving.demo import post
from serving.engine import Engines
from serving.options import Options
from serving.process import ROOT, free_port, running, serve_environment
from serving.segment import files, segment
from tests.serving.tiny_model import boxes_ct, publish

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BENTOML = (sys.executable, "-m", "bentoml")


def test_the_bento_installs_what_serving_needs_in_the_tested_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = set(project["project"]["optional-dependencies"]["serving"]) - {"bentoml"}
    listed = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]["packages"]
    assert {p.split("==")[0].lower().replace("_", "-") for p in listed} == wanted
    assert set(listed) <= set((ROOT / "constraints.txt").read_text().splitlines())


def test_a_built_bento_serves_the_same_bytes_without_a_network(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", behind=())
    publish(store, tmp_path)
    ct = tmp_path / "ct.nii.gz"
    write_nifti(boxes_ct()[0], ct)
    environment = serve_environment(
        os.environ
        | {
            "BENTOML_HOME": str(tmp_path / "bentoml"),
            "ISLET_STORE": str(store.root),
            # An index that no machine has: nothing may be fetched.
            "UV_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
        }
    )
    environment.pop("PYTHONPATH", None)
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        build = (*BENTOML, "build", "--version", "tested", str(ROOT))
        built = subprocess.run(
            build, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=120
        )
        assert built.returncode == 0, log.read_text()
        serve = [*BENTOML, "serve", "islet:tested", "--host", "127.0.0.1", "--port", str(port)]
        url = f"http://127.0.0.1:{port}"
        with running(serve, environment, url, output, cwd=tmp_path), ct.open("rb") as body:
            status, answer = post(port, "/v1/segment", body)

    assert status == 200, answer
    (source,) = (tmp_path / "bentoml").glob("bentos/islet/tested/src")
    assert (source / "serving" / "service.py").is_file()
    assert not (source / "training").exists()
    expected = dict(files(segment(ct, Options(), Engines(store))))
    with zipfile.ZipFile(io.BytesIO(answer)) as archive:
        got = {name: archive.read(name) for name in archive.namelist()}
    assert set(got) == set(expected)
    del got["report.json"], expected["report.json"]
    assert got == expected
