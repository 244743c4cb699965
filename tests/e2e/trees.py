"""Killing a service as a machine that goes down does."""

from __future__ import annotations

import contextlib
import subprocess

import psutil


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and all that it started; BentoML's children are sessions of their own."""
    family = _family(process)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(family, timeout=10)


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        first = psutil.Process(process.pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
