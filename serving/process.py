"""The service as a process: how it is started, awaited and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from imaging.errors import BadParameter, ServiceFailed
from serving.settings import PATH_VARIABLES

ROOT = Path(__file__).resolve().parents[1]

# BentoML's default leaves TLS 1.2 clients no cipher that authenticates what it encrypts.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
# ssl.CERT_REQUIRED, as a word of a command line.
_CLIENT_REQUIRED = "2"

# Streams of events would keep a service that was told to stop for as long as their jobs take.
_DRAIN_S = 3
_READY_WITHIN_S = 60.0
_LOOK_S = 0.5
_STOP_WITHIN_S = 10.0


def serve_command(
    host: str,
    port: int,
    certificate: Path | None = None,
    key: Path | None = None,
    authority: Path | None = None,
) -> list[str]:
    """The command line that serves; it finds the code from any working directory.

    The caller asks ``serving.guard.rules.check_exposure`` first whether ``host`` may be served.

    Args:
        host: address to listen at.
        port: its port.
        certificate: PEM file of the server; with it the service speaks TLS.
        key: PEM file of the certificate's key.
        authority: PEM file of whose certificates clients must show; ``None`` asks for none.

    Raises:
        BadParameter: one of ``certificate`` and ``key`` without the other, or ``authority``
            without them.
    """
    if (certificate is None) != (key is None) or (authority and certificate is None):
        raise BadParameter(
            "TLS needs a certificate and its key together; give --tls-cert and --tls-key.",
            parameter="tls-cert" if certificate is None else "tls-key",
        )
    command = [
        *(sys.executable, "-m", "bentoml", "serve", "serving.service:Islet"),
        *("--working-dir", str(ROOT), "--host", host, "--port", str(port)),
        *("--timeout-graceful-shutdown", str(_DRAIN_S)),
    ]
    if certificate and key:
        command += ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
        command += ["--ssl-ciphers", _CIPHERS]
    if authority:
        command += ["--ssl-ca-certs", str(authority), "--ssl-cert-reqs", _CLIENT_REQUIRED]
    return command


def serve_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment that serves: no tracking, and paths that hold in another directory."""
    paths = {
        name: str(Path(environment[name]).expanduser().resolve())
        for name in ("ISLET_STORE", *PATH_VARIABLES)
        if environment.get(name)
    }
    return {**environment, **paths, "BENTOML_DO_NOT_TRACK": "True"}


def end_with_parent() -> None:
    """Have this process end when the one that started it is gone, however that one ended.

    BentoML's supervisor takes its children along when it is told to stop, not when it is killed;
    they would go on at the same port, and the next start would find it taken.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_STOP_WITHIN_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


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
