"""Disks without room and disks that may only be read: small ones, mounted for the purpose."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.trials.row import Row
from benchmarks.trials.scans import SHAPES, Scan, scan
from benchmarks.trials.tree import Tree, tree, until

_MB = 40
# Bytes that are left on the disk: none for the upload, for the records, for the work's result, ...
_LEFT = (0, 4096, 65536, 1 << 19, 3 << 19)
_FULL, _READ_ONLY = "disk_full", "disk_read_only"
_ENDS_WITHIN_S = 300.0


def trial(folder: Path, seed: int, each: int = 4) -> Sequence[Row]:
    """Both families, where this process may mount.

    Args:
        folder: for mounts and a service; made.
        seed: of what is sent.
        each: requests at every state of the disk.
    """
    folder.mkdir(parents=True)
    if not may_mount(folder):
        return [Row("disk full, disk read-only", 0, 0, 0, "0 tried: needs a root that may mount")]
    disk = folder / "disk"
    with _mounted(disk, "-t", "tmpfs", "-o", f"size={_MB}m", "tmpfs"):
        with tree(folder, ISLET_SPOOL=str(disk / "spool")) as service:
            full = _full(service, disk, random.Random(seed), each)
            read_only = _read_only(service, each)
        return [full, read_only]


def may_mount(folder: Path) -> bool:
    """Whether this process can mount a disk in memory."""
    if os.geteuid() != 0:
        return False
    try:
        with _mounted(folder / "probe", "-t", "tmpfs", "tmpfs"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _full(service: Tree, disk: Path, chance: random.Random, each: int) -> Row:
    """Requests while the disk has less and less room, and when it has some again."""
    found: Counter[str] = Counter()
    slowest = 0.0
    for left in sorted(_LEFT, reverse=True):
        with _filled(disk, left):
            for _ in range(each):
                found[_sent(service, scan(SHAPES[-1], chance))] += 1
        began = time.monotonic()
        until(lambda: _sent(service, scan(SHAPES[0])) == "done", _ENDS_WITHIN_S)
        slowest = max(slowest, time.monotonic() - began)
    return _row("disk full", found, _FULL, f"back within {slowest:.1f} s of there being room")


def _read_only(service: Tree, each: int) -> Row:
    """Requests while each part of the spool, and all of it, may only be read."""
    found: Counter[str] = Counter()
    slowest = 0.0
    for part in ("staging", "jobs"):
        with _bound(service.spool / part):
            for _ in range(each):
                found[_sent(service, scan(SHAPES[0]))] += 1
            assert service.ask_once("/jobs")[0] == 200
        began = time.monotonic()
        until(lambda: _sent(service, scan(SHAPES[0])) == "done", _ENDS_WITHIN_S)
        slowest = max(slowest, time.monotonic() - began)
    service.kill()
    with _bound(service.spool):
        service.start()
        said = service.process.wait(_ENDS_WITHIN_S) != 0
        told = "ISLET_SPOOL" in service.log.read_text(errors="replace")
        found[_READ_ONLY if said and told else "started all the same"] += 1
    service.start()
    service.await_ready()
    found[_sent(service, scan(SHAPES[0]))] += 1
    return _row("disk read-only", found, _READ_ONLY, f"back within {slowest:.1f} s")


def _row(family: str, found: Counter[str], code: str, figure: str) -> Row:
    survived = found["done"] + found[code]
    others = ", ".join(f"{n} {what}" for what, n in found.items() if what not in ("done", code))
    tried = found.total()
    figure = f"{found[code]} refused as {code}; {figure}" + (f"; {others}" if others else "")
    return Row(family, tried, survived, tried - survived, figure)


def _sent(service: Tree, what: Scan) -> str:
    """``done``, the code of the refusal, or what else came of a job."""
    status, answer = service.ask_once("/jobs", what.body)
    if status != 202:
        return _code(answer)
    id = json.loads(answer)["id"]
    until(lambda: json.loads(service.ask(f"/jobs/{id}")[1])["ended"], _ENDS_WITHIN_S)
    status, answer = service.ask(f"/jobs/{id}/result")
    service.forget(id)
    if status == 200:
        return "done" if what.answered_by(answer) else "a wrong result"
    return _code(answer)


def _code(answer: bytes) -> str:
    return str(json.loads(answer)["error"]["code"])


@contextlib.contextmanager
def _filled(disk: Path, left: int) -> Iterator[None]:
    """A disk with so many bytes of room for the length of the block."""
    stat = os.statvfs(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - left))
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def _bound(folder: Path) -> Iterator[None]:
    """A folder that may only be read for the length of the block."""
    with _mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield


@contextlib.contextmanager
def _mounted(point: Path, *options: str) -> Iterator[None]:
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, point], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)
