"""The client and its command line against the real service, tokens and all."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

import islet
from imaging.errors import Forbidden, Unauthenticated
from imaging.read import read_volume
from imaging.writers.nifti import write_nifti
from models.store import Store
from serving.client import Client
from serving.process import free_port, running, serve_command, serve_environment
from tests.e2e.trees import kill_tree
from tests.serving.tiny_model import boxes_ct, publish

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@dataclass(frozen=True)
class House:
    """What a service is started with, again and again.

    Attributes:
        folder: with ``ct.nii.gz``, ``tokens.toml`` and a file of each token.
        port: of it.
    """

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, role: str) -> str:
        return (self.folder / role).read_text()

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        environment = serve_environment(
            os.environ
            | {
                "ISLET_STORE": str(self.folder / "store"),
                "ISLET_SPOOL": str(self.folder / "spool"),
                "ISLET_TOKENS": str(self.folder / "tokens.toml"),
                "ISLET_THREADS": "1",
            }
        )
        command = serve_command("127.0.0.1", self.port)
        with (
            (self.folder / "service.log").open("ab") as log,
            running(command, environment, self.url, log) as process,
        ):
            yield process


@pytest.fixture
def house(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> House:
    publish(Store(tmp_path / "store", behind=()), tmp_path)
    write_nifti(boxes_ct()[0], tmp_path / "ct.nii.gz")
    for role in ("read", "segment"):
        file = str(tmp_path / "tokens.toml")
        assert islet.main(["token", "new", role, "--role", role, "--file", file]) == 0
        (tmp_path / role).write_text(capsys.readouterr().out.strip())
        (tmp_path / role).chmod(0o600)
    return House(tmp_path, free_port())


def test_client_command_line_and_slicer_with_tokens(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    ct, out = house.folder / "ct.nii.gz", house.folder / "out"
    with house.serving():
        with Client(house.url, token=house.token("segment")) as client:
            result = client.segment(ct, out, structures=["kidney"])
            np.testing.assert_array_equal(read_volume(out / "labels.nii.gz").array, boxes_ct()[1])
            assert list(result.report["masks"]) == ["kidney"]
            (job,) = client.jobs()
        with Client(house.url, token=house.token("read")) as reader:
            assert reader.jobs() == []
            with pytest.raises(Forbidden):
                reader.submit(ct)
        with Client(house.url) as nobody, pytest.raises(Unauthenticated):
            nobody.models()

        there = ["--server", house.url, "--token-file", str(house.folder / "segment")]
        line = ["segment", str(ct), "-o", str(out / "line"), "--outputs", "report", *there]
        assert islet.main(line) == 0
        assert "kidney" in capsys.readouterr().out
        assert {p.name for p in (out / "line").iterdir()} == {"preview.png", "report.json"}
        assert islet.main(["jobs", "list", *there]) == 0
        assert job["id"] in capsys.readouterr().out
        fetch = ["jobs", "fetch", job["id"], "-o", str(out / "again"), *there]
        assert islet.main(fetch) == 0
        assert (out / "again" / "kidney.nii.gz").is_file()
        assert islet.main([*line, "--model", "monet"]) == 2
        assert "islet: model_not_found" in capsys.readouterr().err

        headers = {"Authorization": f"Bearer {house.token('segment')}"}
        info = httpx.get(f"{house.url}/monailabel/info/", headers=headers, trust_env=False)
        # The one published here is live; the released one behind it still has its own alias.
        assert [name for name in info.json()["models"] if "@" not in name] == ["starter"]
        assert httpx.get(f"{house.url}/monailabel/info/", trust_env=False).status_code == 401


def test_a_job_outlives_the_service_that_took_it(house: House) -> None:
    """The service is killed over a job; the client's wait goes on at the next one."""
    ct = house.folder / "ct.nii.gz"
    with Client(house.url, token=house.token("segment"), patience=60) as client:
        with house.serving() as process:
            client.submit(ct).wait()
            job = client.submit(ct)
            kill_tree(process)
        time.sleep(0.2)
        with house.serving():
            job.wait()
            result = job.result(house.folder / "out")
    assert result.report["masks"]["kidney"]["voxels"] > 0
