"""Errors on their way into a job's record and out of it."""

from __future__ import annotations

import errno
import logging
import traceback
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from imaging.errors import DiskFull, DiskReadOnly, IsletError, OutOfMemory
from serving.statuses import INTERNAL

logger = logging.getLogger("islet.jobs")

_FULL = (errno.ENOSPC, errno.EDQUOT)
# How Python, C++ and the system say it where they raise no ``MemoryError``.
_NO_MEMORY = (
    "can't start new thread",
    "bad_alloc",
    "Failed to allocate memory",
    "Cannot allocate memory",
)


class _Other(IsletError):
    """An error of a record that no class of the tree stands for."""

    code = INTERNAL


def recorded(error: BaseException) -> dict[str, Any]:
    """What a job's record says of an error.

    Only errors of the tree are told as they are. Of any other the log gets the type and the
    frames, without its text, which may quote a header, and the record an id to find them by.
    """
    error = of_disk(error) or _of_memory(error) or error
    if isinstance(error, IsletError):
        return error.as_dict()
    found = uuid.uuid4().hex[:12]
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("internal error %s: %s\n%s", found, type(error).__name__, frames)
    told = _Other(
        f"The job failed for a reason that lies in the service; its log has error {found}.",
        id=found,
    )
    return told.as_dict()


def raised(error: Mapping[str, Any]) -> IsletError:
    """The error that :func:`recorded` or ``IsletError.as_dict`` wrote, to be raised again."""
    kinds = {kind.code: kind for kind in (*_tree(IsletError),)}
    made = kinds.get(error["code"], _Other)(error["message"])
    made.details = dict(error["details"])
    return made


def of_disk(error: BaseException) -> IsletError | None:
    """The error of the tree for one that says that a disk cannot be written, or ``None``."""
    if not isinstance(error, OSError):
        return None
    if error.errno in _FULL:
        return disk_full()
    return disk_read_only() if error.errno == errno.EROFS else None


def _of_memory(error: BaseException) -> OutOfMemory | None:
    """The error of the tree for one that says, or was caused by one that says, that memory is
    out."""
    causes = [e for e in (error, error.__cause__) if e and not isinstance(e, IsletError)]
    if not any(isinstance(e, MemoryError) or any(w in str(e) for w in _NO_MEMORY) for e in causes):
        return None
    return OutOfMemory(
        "The job took more memory than its worker may have; send fewer slices, or give the workers "
        "more."
    )


def disk_full() -> DiskFull:
    """The error for a disk without room."""
    return DiskFull(
        "There is no room left in the spool; make room on its disk, or set ISLET_SPOOL to another."
    )


def disk_read_only() -> DiskReadOnly:
    """The error for a disk that may only be read."""
    return DiskReadOnly(
        "The spool's disk may only be read now; mount it for writing, or set ISLET_SPOOL to "
        "another."
    )


def _tree(root: type[IsletError]) -> Iterator[type[IsletError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)
