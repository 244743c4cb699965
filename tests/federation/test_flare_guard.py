"""One process a folder, and none that outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from federation.flare.guard import held
from federation.flare.home import environment
from imaging.errors import FederationError

_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
time.sleep(60)
"""
_CHILD = """
import time
from nvflare.apis.fl_context import FLContext
from federation.flare.guard import Guard
Guard().handle_event("any", FLContext())
print("guarded", flush=True)
time.sleep(60)
"""


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with held(tmp_path / "job"):
        with pytest.raises(FederationError, match="job"), held(tmp_path / "job"):
            pass
        with held(tmp_path / "other"):
            pass
    with held(tmp_path / "job"):
        pass


def test_another_one_is_given_time_to_end(tmp_path: Path) -> None:
    code = "import time; from federation.flare.guard import held; from pathlib import Path\n"
    code += f"with held(Path({str(tmp_path / 'job')!r})): print('held', flush=True); time.sleep(1)"
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment(1)
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with held(tmp_path / "job", 30):
        assert other.wait(10) == 0
    other.stdout.close()


def test_the_child_of_a_killed_parent_ends() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, _CHILD], stdout=subprocess.PIPE, env=environment(1)
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == b"guarded\n"
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    # The pipe's end comes when its last writer, the child, is gone.
    started = time.monotonic()
    assert parent.stdout.read() == b""
    assert time.monotonic() - started < 20
    parent.stdout.close()
