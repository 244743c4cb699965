"""A job as FLARE's folder: what it takes, and nothing that runs."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import pytest
from nvflare.private.fed.server.job_meta_validator import JobMetaValidator

from federation.flare.kits import CONTROLLER, EXECUTOR
from federation.flare.package import APP, read_job, write_package
from federation.job import Privacy
from imaging.errors import BadParameter, MessageRefused
from tests.federation.sites import job


def test_a_job_comes_out_as_it_went_in(tmp_path: Path) -> None:
    # As an argument the engine would take its braces for variables, its names for components.
    common = job(rounds=3)
    made = dataclasses.replace(common, recipes={"c1": common.recipe}, privacy=Privacy(1.0, 0.5))
    package = write_package(made, tmp_path)
    assert read_job(package / APP / "config") == made


def test_the_engine_takes_it_and_sees_no_code(tmp_path: Path) -> None:
    package = write_package(job(min_sites=2, max_sites=7), tmp_path)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path in sorted(tmp_path.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    valid, says, meta = JobMetaValidator().validate(package.name, data.getvalue())
    assert valid, says
    assert not meta.get("byoc")
    assert meta["min_clients"] == 2
    assert meta["max_sites"] == 7


def test_it_names_our_two_classes(tmp_path: Path) -> None:
    config = write_package(job(), tmp_path) / APP / "config"
    assert {p.suffix for p in config.iterdir()} == {".json"}
    server = json.loads((config / "config_fed_server.json").read_text())
    site = json.loads((config / "config_fed_client.json").read_text())
    assert [w["path"] for w in server["workflows"]] == [CONTROLLER]
    assert [e["executor"]["path"] for e in site["executors"]] == [EXECUTOR]


def test_a_job_without_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MessageRefused, match=r"job\.json"):
        read_job(tmp_path)
    (tmp_path / "job.json").write_text('{"name": "half"')
    with pytest.raises(BadParameter, match="no job of this version"):
        read_job(tmp_path)
