"""A whole federation on one machine: real kits, real processes, mutual TLS over loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from federation.flare.coordinators import Standing, coordinator, follow
from federation.flare.home import environment, keep_home
from federation.flare.kits import provision
from federation.flare.processes import STARTED_BY
from federation.home import Home
from federation.job import Job
from federation.result import GLOBAL_MODEL
from federation.site import GLOBAL
from imaging.errors import FederationError, JobFailed
from imaging.files import write_whole
from models.onnxfile import read_manifest
from models.store import Store

COORDINATOR = "lead@islet.local"
_OUTPUT = "supervisor.txt"
# Names the job that the kits are at, from its submission to its end.
_UNDER_WAY = "under-way.json"
_READY_WITHIN_S = 90.0
_ENDS_WITHIN_S = 20.0


def run_local(
    job: Job, homes: Sequence[Home], out: Path, say: Callable[[Standing], None] = lambda _: None
) -> Path:
    """Run a job in a federation of this machine's own, and stop it again.

    A run that was killed goes on where it was when it is called again with the same job.

    Args:
        job: what is trained.
        homes: the sites; each keeps its state in its kit.
        out: folder for the kits, the logs and the results.
        say: told every other second how the job stands.

    Returns:
        The folder of the results: ``global.onnx``, ``report.html`` and what they were made of.

    Raises:
        JobFailed: it ended otherwise than completed; its log lies in ``out``.
        FederationError: the processes do not come up.
    """
    kits, under_way = out / "kits", out / _UNDER_WAY
    job_id = _taken_up(job, under_way)
    if not job_id:
        make_kits(homes, kits)
    with contextlib.ExitStack() as stack:
        stack.enter_context(serving(kits))
        sites = [stack.enter_context(party(kits / home.name, "site")) for home in homes]
        for site in sites:
            # All at once on the way out, and then each waited for.
            stack.callback(site.terminate)
        kit, results = kits / COORDINATOR, out / "results"
        if not job_id:
            with coordinator(kit) as session:
                job_id = session.submit(job)
            raw = {"job": json.loads(job.to_json()), "job_id": job_id}
            write_whole(under_way, json.dumps(raw).encode())
        standing = follow(kit, job_id, say)
        under_way.unlink()
        with coordinator(kit) as session:
            (out / "job.log").write_text(session.logs(job_id))
            if standing.state != "completed":
                raise JobFailed(f"The job ended as {standing.state!r}; see {out / 'job.log'}.")
            session.fetch(job_id, results)
    return results


def publish(job: Job, homes: Sequence[Home], results: Path, store: Path) -> list[str]:
    """Put an ended job's models into one store: ``NAME@global`` and ``NAME@site-SITE``.

    A model that its alias names already is not published again.

    Args:
        job: that ended.
        homes: its sites, each with its own model in its own store.
        results: of :func:`run_local`.
        store: root of the store.

    Returns:
        A reference for each model.
    """
    found = {GLOBAL: results / GLOBAL_MODEL}
    for home in homes:
        alias = f"site-{home.name}"
        name = job.recipe_of(home.name).name
        found[alias] = Store(home.store, behind=()).resolve(f"{name}@{alias}").path
    return [kept(Store(store), path, alias) for alias, path in found.items() if path.exists()]


def kept(store: Store, onnx: Path, alias: str) -> str:
    """Publish a model unless the alias names it already; its reference."""
    manifest = read_manifest(onnx)
    version = store.aliases(manifest.name).get(alias)
    if version is not None:
        there = store.resolve(f"{manifest.name}@{version}")
        if there.manifest == manifest:
            return f"{there.reference} ({alias})"
    return f"{store.publish(onnx, [alias]).reference} ({alias})"


def _taken_up(job: Job, under_way: Path) -> str:
    """The number of this very job where a run of it was killed, else nothing."""
    if not under_way.exists():
        return ""
    raw = json.loads(under_way.read_text(encoding="utf-8"))
    return str(raw["job_id"]) if raw["job"] == json.loads(job.to_json()) else ""


def make_kits(
    homes: Sequence[Home],
    kits: Path,
    coordinators: Mapping[str, str] | None = None,
    max_sites: int | None = None,
) -> Path:
    """Kits of a federation on loopback, with the sites' homes in them.

    Args:
        homes: the sites.
        kits: folder for the kits; what it holds is lost with its ports and certificates.
        coordinators: their roles, by default one lead.
        max_sites: by default as many as there are homes.
    """
    port, admin_port = _free_ports()
    project = {
        "name": "local",
        "server": {"host": "localhost", "port": port, "admin_port": admin_port},
        "sites": [home.name for home in homes],
        "coordinators": dict(coordinators or {COORDINATOR: "lead"}),
        "max_sites": max_sites or len(homes),
    }
    shutil.rmtree(kits, ignore_errors=True)
    kits.mkdir(parents=True)
    path = kits / "project.yml"
    path.write_text(yaml.safe_dump(project))
    provision(path, kits)
    for home in homes:
        keep_home(kits / home.name, home)
    return kits


@contextmanager
def serving(kits: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server of such kits until the block ends; entered once it answers.

    Raises:
        FederationError: it ended, or did not answer within a minute and a half.
    """
    with party(kits / "server", "server") as process:
        _await_server(kits / COORDINATOR, process)
        yield process


@contextmanager
def party(kit: Path, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a kit's server or site until the block ends, by the command that a hospital uses."""
    command = [sys.executable, "-m", "islet", "federate", kind, "--kit", str(kit)]
    with (kit / _OUTPUT).open("ab") as output:
        process = subprocess.Popen(
            command,
            # Killed without a word, we would leave a federation that nobody waits for.
            env=environment(1) | {STARTED_BY: str(os.getpid())},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # Ctrl-C comes to us alone; we end it.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDS_WITHIN_S)
            process.kill()
            process.wait()


def _await_server(kit: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        if server.poll() is not None:
            log = kit.parent / "server" / _OUTPUT
            raise FederationError(f"The server ended with {server.returncode}; see {log}.")
        try:
            with coordinator(kit):
                return
        except FederationError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _free_ports() -> tuple[int, int]:
    """Two loopback ports that nothing listens on at this moment."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports: tuple[int, int] = one.getsockname()[1], other.getsockname()[1]
    return ports
