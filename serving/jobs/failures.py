"""Errors on their way into a job's record and out of it."""

from __future__ import annotations

import errno
import logging
import traceback
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from imaging.errors import DiskFull, IsletError
from serving.statuses import INTERNAL

logger = logging.getLogger("islet.jobs")

_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Other(IsletError):
    """An error of a record that no class of the tree stands for."""

    code = INTERNAL


def recorded(error: BaseException) -> dict[str, Any]:
    """What a job's record says of an error.

    Only errors of the tree are told as they are. Of any other the log gets the type and the
    frames, without its text, which may quote a header, and the record an id to find them by.
    """
    if is_full(error):
        error = disk_full()
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


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room on a disk."""
    return isinstance(error, OSError) and error.errno in _FULL


def disk_full() -> DiskFull:
    """The error for it."""
    return DiskFull(
        "There is no room left in the spool; make room on its disk, or set ISLET_SPOOL to another."
    )


def _tree(root: type[IsletError]) -> Iterator[type[IsletError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)
