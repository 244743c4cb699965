"""The service as a process: how it is started, awaited and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from imaging.errors import ServiceFailed

ROOT = Path(__file__).resolve().parents[1]

_READY_WITHIN_S = 60.0
_STOP_WITHIN_S = 10.0


def serve_command(host: str, port: int) -> list[str]:
    """The command line that serves; it finds the code from any working directory."""
    return [
        *(sys.executable, "-m", "bentoml", "serve", "serving.service:Islet"),
        *("--working-dir", str(ROOT), "--host", host, "--port", str(port)),
    ]


def serve_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment that serves: no tracking, and paths that hold in another directory."""
    env = dict(environment) | {"BENTOML_DO_NOT_TRACK": "True"}
    if env.get("ISLET_STORE"):
        env["ISLET_STORE"] = str(Path(env["ISLET_STORE"]).resolve())
    return env


def free_port() -> int:
    """A loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(
    command: list[str],
    environment: dict[str, str],
    url: str,
    log: IO[bytes],
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends, entered once ``url``/readyz answers.

    The server's whole process group is stopped on the way out, whatever happened.

    Raises:
        ServiceFailed: it ended or was not ready within a minute.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        start_new_session=True,
    )
    try:
        _await_ready(process, url)
        yield process
    finally:
        _stop(process)


def _await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServiceFailed(
                f"The service ended with exit code {process.returncode} before it was ready; its "
                "log says why.",
                exit_code=process.returncode,
            )
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ServiceFailed(
        f"The service was not ready within {_READY_WITHIN_S:g} s; is its default model in the "
        "store (islet models)? Its log says more.",
        url=url,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process group: politely, then for certain."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
