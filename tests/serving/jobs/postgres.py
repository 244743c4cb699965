"""A real PostgreSQL server in a temporary folder, on a socket file that only this machine sees."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

_USER = "postgres"


@contextmanager
def server() -> Iterator[Path]:
    """Run one until the block ends; gives the folder of its socket."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("no PostgreSQL server in /usr/lib/postgresql")
    # It refuses to run as root, and its user could not enter pytest's own folders.
    folder = Path(tempfile.mkdtemp(prefix="islet-postgres-", dir="/tmp"))
    user: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is missing: PostgreSQL does not run as root")
        shutil.chown(folder, _USER, _USER)
        user = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
    data, sockets = folder / "data", folder
    made = [str(programs[-1] / "initdb"), "-D", str(data), "-A", "trust", "-U", _USER, "--no-sync"]
    subprocess.run([*user, *made], check=True, capture_output=True, cwd="/")
    options = {"listen_addresses": "", "unix_socket_directories": str(sockets), "fsync": "off"}
    command = [str(programs[-1] / "postgres"), "-D", str(data)]
    command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*user, *command], stdout=log, stderr=log, cwd="/")
    try:
        _await(sockets)
        yield sockets
    finally:
        # The way down that writes nothing: what is there is thrown away.
        process.send_signal(signal.SIGQUIT)
        process.wait(20)
        shutil.rmtree(folder)


def fresh(sockets: Path) -> str:
    """URL of a place for tables of its own on a server.

    A schema: a database takes a hundred times as long to make, and as long to throw away.
    """
    name = f"s{uuid.uuid4().hex}"
    with psycopg.connect(_url(sockets), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{_url(sockets)}&options=-csearch_path%3D{name}"


def _url(sockets: Path) -> str:
    return f"postgresql://{_USER}@/{_USER}?host={sockets}"


def _await(sockets: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(_url(sockets)).close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)
