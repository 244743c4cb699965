"""Jobs outlive what runs them: a service that is killed again and again, a host that is gone."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.trials.tree import Tree, tree
from imaging.read import read_volume
from imaging.writers.nifti import encode_nifti
from models.store import Store
from serving.jobs.jobs import Jobs
from serving.jobs.ledger import LEASE_S
from serving.jobs.record import ENDED, State
from serving.settings import Settings
from tests.serving.jobs import postgres
from tests.serving.jobs.conftest import until
from tests.serving.tiny_model import boxes_ct, publish

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SEED = 20261121
JOBS, CLIENTS = 20, 8
KILLS = ["service"] * 5 + ["supervisor", "workers"]
ROOT = Path(__file__).resolve().parents[2]
ODD = ROOT / "tests" / "serving" / "workers" / "odd"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Tree]:
    with tree(tmp_path) as made:
        yield made


def test_every_job_is_done_once_though_the_service_is_killed(service: Tree, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    kills = chance.sample(KILLS, len(KILLS))
    done: list[int] = []
    results: dict[int, tuple[str, bytes]] = {}

    def client(number: int) -> None:
        results[number] = _one_job(service, number)
        done.append(number)

    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(client, number) for number in range(JOBS)]
        for kill, what in enumerate(kills):
            # Enough is left to be lost each time, and a worker has something in hand.
            until(lambda least=2 * kill: len(done) >= least or _failed(running), 240)
            until(lambda: service.listed("running") or _failed(running), 240)
            time.sleep(chance.uniform(0.0, 0.1))
            service.kill_and_start(what)
        for one in running:
            one.result(120)

    assert len({id for id, _ in results.values()}) == JOBS
    for number, (_, archive) in results.items():
        np.testing.assert_array_equal(_labels(archive, tmp_path), _boxes(number)[1])
    listed = service.listed()
    assert {job["id"] for job in listed} == {id for id, _ in results.values()}
    assert {job["state"] for job in listed} == {"done"}
    assert max(job["attempts"] for job in listed) > 1, "no kill met a job in hand"
    # Each job leaves one result, and no attempt's scratch once somebody tidied. A submission that
    # was cut off before its answer may leave its upload for an hour.
    folders = [tmp_path / "spool" / "jobs" / job["id"] for job in listed]
    until(lambda: sum(path.is_file() for one in folders for path in one.rglob("*")) == JOBS, 20)


def test_a_hosts_job_goes_to_another_host_when_it_is_gone(tmp_path: Path) -> None:
    """Two hosts: namespaces of their own for processes, network and host name."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("hosts are played by namespaces, which need root and unshare")
    store = Store(tmp_path / "store", behind=())
    publish(store, tmp_path)
    with postgres.server() as sockets:
        settings = Settings(spool=tmp_path / "spool", database=postgres.fresh(sockets), workers=0)
        environment = os.environ | {
            "ISLET_STORE": str(store.root),
            "ISLET_SPOOL": str(settings.spool),
            "ISLET_DATABASE": str(settings.database),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ODD))),
        }
        jobs = Jobs(settings)
        hosts = {name: _host(name, environment) for name in ("host-a", "host-b")}
        try:
            until(lambda: {w["host"] for w in jobs.workers() if w["ready"]} == set(hosts), 60)
            slow = [jobs.submit("slow", {"seconds": 4}, "anna", None) for _ in range(2)]
            until(lambda: jobs.counts()[State.RUNNING] == 2)
            began = time.monotonic()
            hosts["host-a"].kill()
            until(lambda: all(jobs.get(job.id).state in ENDED for job in slow), 60)
        finally:
            for host in hosts.values():
                host.kill()
                host.wait()
        ended = [jobs.get(job.id) for job in slow]
        assert [job.state for job in ended] == [State.DONE] * 2
        assert sorted(job.attempts for job in ended) == [1, 2]
        # Only the silence could tell: nobody here can see that host's processes.
        assert time.monotonic() - began > LEASE_S / 2
        jobs.close()


def _one_job(service: Tree, number: int) -> tuple[str, bytes]:
    """Submit a CT and fetch its result, as a client would that may lose any answer."""
    headers = {"Idempotency-Key": f"job-{number}", "Content-Type": "application/octet-stream"}
    status, answer = service.ask("/jobs", encode_nifti(_boxes(number)[0]), **headers)
    assert status == 202, answer
    id = json.loads(answer)["id"]
    while True:
        status, answer = service.ask(f"/jobs/{id}/result")
        if status == 200:
            return id, answer
        assert status == 409, answer
        time.sleep(0.05)


def _boxes(number: int) -> tuple[Any, Any]:
    """A CT of another size for each number, so that results cannot be mixed up."""
    return boxes_ct((60 + number, 160, 160))


def _labels(archive: bytes, folder: Path) -> Any:
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        (folder / "labels.nii.gz").write_bytes(packed.read("labels.nii.gz"))
    return read_volume(folder / "labels.nii.gz").array


def _failed(running: list[Any]) -> bool:
    return any(one.done() and one.exception() for one in running)


def _host(name: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """``islet work`` as if on another machine; killing it kills all that runs there."""
    spaces = ["--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    script = f"hostname {name} && exec {sys.executable} -m islet work --workers 1"
    return subprocess.Popen(["unshare", *spaces, "sh", "-c", script], env=environment, cwd=ROOT)
