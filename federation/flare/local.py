"""A whole federation on one machine: real kits, real processes, mutual TLS over loopback."""

from __future__ import annotations

import contextlib
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
from federation.home import Home
from federation.job import Job
from imaging.errors import FederationError, JobFailed

COORDINATOR = "lead@islet.local"
_OUTPUT = "supervisor.txt"
_READY_WITHIN_S = 90.0
_ENDS_WITHIN_S = 20.0


def run_local(
    job: Job, homes: Sequence[Home], out: Path, say: Callable[[Standing], None] = lambda _: None
) -> Path:
    """Run a job in a federation of this machine's own, and stop it again.

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
    kits = make_kits(homes, out / "kits")
    with contextlib.ExitStack() as stack:
        stack.enter_context(serving(kits))
        sites = [stack.enter_context(party(kits / home.name, "site")) for home in homes]
        for site in sites:
            # All at once on the way out, and then each waited for.
            stack.callback(site.terminate)
        kit, results = kits / COORDINATOR, out / "results"
        with coordinator(kit) as session:
            job_id = session.submit(job)
        standing = follow(kit, job_id, say)
        with coordinator(kit) as session:
            (out / "job.log").write_text(session.logs(job_id))
            if standing.state != "completed":
                raise JobFailed(f"The job ended as {standing.state!r}; see {out / 'job.log'}.")
            session.fetch(job_id, results)
    return results


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
            env=environment(1),
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
