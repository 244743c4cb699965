"""The jobs' files: uploads, attempts and results, which only their owner on this system may read.

::

    spool/records/               embedded database and queue
    spool/staging/<process>-<random>/    an upload that is being received
    spool/jobs/<id>/input/       the upload of a job, until it ended
    spool/jobs/<id>/<attempt>/   a worker's scratch, and its result.zip

Several hosts may share it; each attempt writes to a folder of its own, so a worker that lost its
job and does not know it yet spoils nothing.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from imaging.errors import BadParameter
from serving.jobs.record import Job
from serving.jobs.roll import gone, place
from serving.outputs import RESULT

INPUT = "input"

_PRIVATE = 0o700
# What nobody touched for that long and no job names is left over.
_ORPHAN_S = 3600.0


class Stills:
    """Tells what nobody touches any more.

    The clocks of disks, hosts and this process may differ and jump: how long something stood still
    is counted from when this process first saw it so.

    Args:
        after_s: seconds without a change.
        clock: seconds.
    """

    def __init__(self, after_s: float, clock: Callable[[], float]) -> None:
        self._after_s = after_s
        self._clock = clock
        self._seen: dict[Path, tuple[int, float]] = {}

    def of(self, touched: Mapping[Path, int]) -> list[Path]:
        """Those that stand still, given when each was last changed; the rest is forgotten."""
        now = self._clock()
        before = self._seen
        self._seen = {
            path: before[path] if before.get(path, (None,))[0] == when else (when, now)
            for path, when in touched.items()
        }
        return [path for path, (_, since) in self._seen.items() if now - since > self._after_s]


class Spool:
    """Folders under one root.

    Args:
        root: made where it is missing; what is in it beside the four folders is left alone.
        clock: seconds.

    Raises:
        BadParameter: it cannot be written.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._stills = {name: Stills(_ORPHAN_S, clock) for name in ("staging", "jobs")}
        self.records = root / "records"
        self._staging = root / "staging"
        self._jobs = root / "jobs"
        try:
            root.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            for folder in (self.records, self._staging, self._jobs):
                folder.mkdir(exist_ok=True)
                folder.chmod(_PRIVATE)
        except OSError as error:
            raise BadParameter(
                f"The spool cannot be used ({type(error).__name__}); set ISLET_SPOOL to a folder "
                "that this user may write to.",
                variable="ISLET_SPOOL",
            ) from error

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """An empty folder for an upload; removed when the block ends unless it was taken."""
        folder = self._staging / f"{place()}-{os.getpid()}-{uuid.uuid4().hex}"
        folder.mkdir(_PRIVATE)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def take(self, id: str, folder: Path | None) -> None:
        """Make a staged folder the input of a job, on the disk itself; ``None`` is an empty one."""
        job = self._jobs / id
        job.mkdir(_PRIVATE)
        if folder is None:
            (job / INPUT).mkdir(_PRIVATE)
        else:
            for path in folder.rglob("*"):
                _to_disk(path)
            _to_disk(folder)
            folder.rename(job / INPUT)
        _to_disk(job)
        _to_disk(self._jobs)

    def attempt(self, job: Job) -> Path:
        """A new folder for a worker's attempt at a job, with the upload in ``input``."""
        folder = self._attempt(job)
        folder.mkdir(_PRIVATE)
        (folder / INPUT).symlink_to(Path("..") / INPUT, target_is_directory=True)
        return folder

    def result(self, job: Job) -> Path:
        """Where the result of a job's last attempt is or will be."""
        return self._attempt(job) / RESULT

    def keep_result(self, job: Job) -> None:
        """Make sure that a result that was written is found after a loss of power."""
        for folder in (self._attempt(job), self._jobs / job.id):
            _to_disk(folder)

    def drop(self, job: Job) -> None:
        """Remove the scratch of a job's last attempt."""
        for path in _inside(self._attempt(job)):
            if path.name != RESULT:
                _remove(path)

    def clear(self, job: Job) -> None:
        """Remove all of a job's files but its result; all of them when it has none."""
        folder = self._jobs / job.id
        if job.result is None:
            shutil.rmtree(folder, ignore_errors=True)
            return
        for path in (*_inside(folder), *_inside(self._attempt(job))):
            if path.name not in (str(job.attempts), RESULT):
                _remove(path)

    def remove(self, id: str) -> None:
        """Remove all of a job's files."""
        shutil.rmtree(self._jobs / id, ignore_errors=True)

    def old(self) -> list[str]:
        """Ids of the jobs whose folders nobody touched for an hour that this process saw."""
        touched = {path: _touched([path]) for path in _inside(self._jobs)}
        return [path.name for path in self._stills["jobs"].of(touched)]

    def sweep(self) -> None:
        """Remove uploads that broke off: their process is gone, or they stand still for an hour."""
        touched = {path: _touched([path, *_inside(path)]) for path in _inside(self._staging)}
        still = self._stills["staging"].of(touched)
        for path in touched:
            where, _, rest = path.name.partition("-")
            pid = rest.partition("-")[0]
            if (pid.isdecimal() and gone(where, int(pid))) or path in still:
                shutil.rmtree(path, ignore_errors=True)

    def _attempt(self, job: Job) -> Path:
        return self._jobs / job.id / str(job.attempts)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _touched(paths: list[Path]) -> int:
    """When one of them was changed last, nanoseconds by the clock of their disk."""
    found = 0
    for path in paths:
        with suppress(FileNotFoundError):
            found = max(found, path.stat().st_mtime_ns)
    return found
