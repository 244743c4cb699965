"""The engine's processes of a kit: started, watched, started again, and ended with us."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from federation.flare.guard import held
from federation.flare.home import environment, read_settings
from federation.flare.kits import ORGANISATION, place_server, server_ports
from imaging.errors import BadParameter, FederationError

STARTED_BY = "ISLET_STARTED_BY"
"""Environment variable with the process that a supervisor is not to outlive, if there is one."""
LOG = "log.txt"
"""The engine's own log of a kit's main process, in the kit."""
_OUTPUT = "output.txt"
_SERVER = "nvflare.private.fed.app.server.server_train"
_SITE = "nvflare.private.fed.app.client.client_train"
_BEAT_S = 4
_STEADY_S = 60.0
_LONGEST_WAIT_S = 60.0
_ENDS_WITHIN_S = 15.0


@dataclass(frozen=True)
class Party:
    """The main process of a kit.

    Attributes:
        kit: its folder.
        command: that runs it.
        environment: that it runs in.
        ports: that it listens on.
    """

    kit: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ports: tuple[int, ...] = ()


def server_party(kit: Path) -> Party:
    """The server of a kit.

    Raises:
        BadParameter: no server's kit, or one in a folder that the engine cannot work in.
    """
    kit = _checked(kit)
    place_server(kit)
    party = _party(kit, _SERVER, "fed_server.json", [], threads=1)
    return replace(party, ports=server_ports(kit))


def site_party(kit: Path) -> Party:
    """The site of a kit.

    Raises:
        BadParameter: no site's kit, or one in a folder that the engine cannot work in.
    """
    kit, settings = _checked(kit), read_settings(kit)
    options = [f"uid={settings.name}", f"heart_beat_interval={_BEAT_S}"]
    return _party(kit, _SITE, "fed_client.json", options, settings.threads)


def run(party: Party) -> int:
    """Keep a party's process running until this one is told to end; 0 then.

    A process that dies by itself is started again, after a wait that doubles while it dies young.

    Raises:
        FederationError: another supervisor works in the kit, or a port is taken.
    """
    with held(party.kit), (party.kit / _OUTPUT).open("ab") as output:
        for port in party.ports:
            _await_free(port)
        ended = threading.Event()

        def end(number: int, frame: FrameType | None) -> None:
            del number, frame
            ended.set()

        before = {kind: signal.signal(kind, end) for kind in (signal.SIGTERM, signal.SIGINT)}
        try:
            _keep(party, output, ended)
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)
    return 0


def _keep(party: Party, output: Any, ended: threading.Event) -> None:
    wait = 1.0
    while not ended.is_set():
        started = time.monotonic()
        process = subprocess.Popen(
            party.command,
            cwd=party.kit,
            env=dict(party.environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        print(f"{party.kit.name} runs as process {process.pid}", flush=True)
        try:
            while process.poll() is None and not ended.wait(0.2):
                if _orphaned():
                    ended.set()
        finally:
            _end(process)
        if not ended.is_set():
            wait = 1.0 if time.monotonic() - started > _STEADY_S else min(2 * wait, _LONGEST_WAIT_S)
            print(
                f"{party.kit.name} ended with {process.returncode}; starts again in {wait:g} s",
                flush=True,
            )
            ended.wait(wait)


def _await_free(port: int) -> None:
    """Return once nothing listens on a port: the engine would run on beside it and be met by none.

    What an earlier supervisor left behind ends by itself.
    """
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while True:
        with socket.socket() as here:
            here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                here.bind(("", port))
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise FederationError(
                        f"Port {port} cannot be listened on ({error.strerror}); end what does, or "
                        "make kits with another port."
                    ) from error
        time.sleep(0.5)


def _orphaned() -> bool:
    """Whether the run that this supervisor belongs to was killed."""
    parent = os.environ.get(STARTED_BY)
    return parent is not None and int(parent) != os.getppid()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process; those that it started see it go and end too."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _checked(kit: Path) -> Path:
    kit = kit.resolve()
    if not (kit / "startup").is_dir():
        raise BadParameter(f"{kit} is no kit; `islet federate provision` makes them.")
    if shlex.quote(str(kit)) != str(kit):
        raise BadParameter(f"FLARE cannot work in {str(kit)!r}; use a path of plain letters.")
    return kit


def _party(kit: Path, module: str, startup: str, options: list[str], threads: int) -> Party:
    settings = ["secure_train=true", *options, f"org={ORGANISATION}", "config_folder=config"]
    command = (
        sys.executable,
        "-u",
        "-m",
        module,
        "-m",
        str(kit),
        "-s",
        startup,
        "--set",
        *settings,
    )
    return Party(kit, command, environment(threads))
