"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path, durable: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to; it takes its place under ``path`` in one step when the block ends.

    Whatever stops the block leaves what was there before. The folder is made where it is missing.

    Args:
        path: where it will be, readable by all.
        durable: on the disk itself before it takes its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what killed writers left half-written in a folder that nobody else writes to now."""
    for left in folder.glob(".*.part"):
        left.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step; see :func:`whole_file`."""
    with whole_file(path) as file:
        file.write(data)
