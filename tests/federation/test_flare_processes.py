"""A supervisor: starts again what dies, ends what it started, and is alone in its kit."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.flare import processes
from federation.flare.guard import held
from federation.flare.home import Settings, environment, write_settings
from federation.flare.processes import Party, run, server_party, site_party
from imaging.errors import BadParameter, FederationError

# Counts its starts in a file; the first two die at once.
_DIES = """
import sys, time
from pathlib import Path
starts = Path("starts")
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
if len(starts.read_text()) < 3:
    sys.exit(7)
Path("up").touch()
time.sleep(60)
"""
_RUN = """
import sys
import threading
from pathlib import Path
from federation.flare.processes import Party, run
kit = Path(sys.argv[1])
sys.exit(run(Party(kit, (sys.executable, "-c", sys.argv[2]), {})))
"""


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    (tmp_path / "c1" / "startup").mkdir(parents=True)
    write_settings(tmp_path / "c1", Settings("c1", threads=2))
    return tmp_path / "c1"


def until(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_dies_is_started_again_and_ends_with_its_supervisor(kit: Path) -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(kit), _DIES],
        stdout=subprocess.PIPE,
        env=environment(1),
        text=True,
    )
    until(lambda: (kit / "up").exists())
    with pytest.raises(FederationError, match="c1"), held(kit):
        pass
    supervisor.send_signal(signal.SIGTERM)
    said = supervisor.communicate(timeout=30)[0].splitlines()
    assert supervisor.returncode == 0
    assert (kit / "starts").read_text() == "xxx"
    assert sum("ended with 7; starts again" in line for line in said) == 2
    child = int(said[-1].rpartition(" ")[2])
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_second_supervisor_is_refused(kit: Path) -> None:
    with held(kit), pytest.raises(FederationError, match="Another process"):
        run(Party(kit, ("false",), {}))


def test_a_server_waits_for_its_port_and_names_one_that_stays_taken(
    kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(processes, "_ENDS_WITHIN_S", 0.0)
        with pytest.raises(FederationError, match=f"Port {port} cannot"):
            run(Party(kit, ("false",), {}, (port,)))
        monkeypatch.setattr(processes, "_ENDS_WITHIN_S", 30.0)
        began = time.monotonic()
        threading.Timer(1.0, other.close).start()
        processes._await_free(port)
    assert 0.9 < time.monotonic() - began < 30.0


def test_a_site_is_run_under_its_name_and_threads(kit: Path) -> None:
    party = site_party(kit)
    assert "uid=c1" in party.command
    assert "secure_train=true" in party.command
    assert party.environment["OMP_NUM_THREADS"] == "2"


def test_what_is_no_kit_is_refused(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="no kit"):
        site_party(tmp_path)
    with pytest.raises(BadParameter, match="no server's kit"):
        server_party(kit)
    (kit / "local" / "resources.json").write_text(json.dumps({"components": []}))
    with pytest.raises(BadParameter, match="no server's kit"):
        server_party(kit)


def test_the_engine_cannot_work_in_a_folder_with_blanks(kit: Path) -> None:
    moved = kit.rename(kit.with_name("c 1"))
    with pytest.raises(BadParameter, match="plain letters"):
        site_party(moved)
