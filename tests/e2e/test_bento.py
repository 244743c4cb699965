"""A bento, built offline and served: the same bytes as the pipeline's."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import httpx
import pytest
import yaml

from imaging.writers.nifti import write_nifti
from models.store import Store
from serving.engines import Engines
from serving.options import Options
from serving.process import ROOT, free_port, running, serve_environment
from serving.segment import files, segment
from tests.serving.tiny_model import boxes_ct, publish

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BENTOML = (sys.executable, "-m", "bentoml")

# What the extras in brackets stand for.
IN_BRACKETS = {"pyjwt[crypto]": "cryptography", "psycopg[binary]": "psycopg-binary"}


def test_the_bento_installs_what_serving_needs_in_the_tested_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = {*extras["serving"], *extras["openvino"]} - {"bentoml"}
    wanted = {name.split("[")[0] for name in asked}
    wanted |= {IN_BRACKETS[name] for name in asked if "[" in name}
    listed = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]["packages"]
    assert {re.sub("_", "-", p.split("==")[0].lower()) for p in listed} == wanted
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
            "ISLET_SPOOL": str(tmp_path / "spool"),
            # An index that no machine has: nothing may be fetched.
            "UV_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
        }
    )
    environment.pop("PYTHONPATH", None)
    url = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        build = (*BENTOML, "build", "--version", "tested", str(ROOT))
        built = subprocess.run(
            build, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=120
        )
        assert built.returncode == 0, log.read_text()
        serve = [*BENTOML, "serve", "islet:tested", "--host", "127.0.0.1", "--port", str(port)]
        with running(serve, environment, url, output, cwd=tmp_path):
            answer = httpx.post(f"{url}/v1/segment", content=ct.read_bytes(), timeout=60)
            page = httpx.get(url)

    assert answer.status_code == 200, answer.text
    (source,) = (tmp_path / "bentoml").glob("bentos/islet/tested/src")
    for there in ("service.py", "grafana/islet.json", "pacs/rules.toml", "pacs/orthanc.lua"):
        assert (source / "serving" / there).is_file()
    assert not (source / "training").exists()
    assert not (source / "serving" / "ui" / "node_modules").exists()
    assert ("<html" in page.text) == (source / "serving/ui/built/index.html").is_file()
    wanted = dict(files(segment(ct, Options(), Engines(store, 1, 1024, 60))))
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        got = {name: archive.read(name) for name in archive.namelist()}
    assert set(got) == set(wanted)
    del got["report.json"], wanted["report.json"]
    assert got == wanted
