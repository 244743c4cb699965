"""Request bodies that stream from disk and can be sent again, for the client."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from imaging.errors import EmptyInput

_CHUNK = 1 << 20


class Body(Protocol):
    """Bytes of a known length; every call of ``chunks`` gives the same ones again."""

    kind: str
    size: int

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a megabyte at a time."""


class FileBody:
    """A file as it is."""

    kind = "application/octet-stream"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def chunks(self) -> Iterator[bytes]:
        return _read(self._path)


class FormBody:
    """A multipart form of files and fields, one file open at a time.

    The files' own names stay here: they may hold a patient's name.

    Args:
        files: paths under the name of their field.
        fields: values under the name of their field.
    """

    def __init__(
        self, files: Mapping[str, Sequence[Path]], fields: Mapping[str, Sequence[str]]
    ) -> None:
        self._boundary = secrets.token_hex(16)
        self.kind = f"multipart/form-data; boundary={self._boundary}"
        self._fields = b"".join(
            self._head(name, "") + value.encode() + b"\r\n"
            for name, values in fields.items()
            for value in values
        )
        self._parts = [
            (self._head(name, f'; filename="{number:06d}"'), path)
            for name, paths in files.items()
            for number, path in enumerate(paths)
        ]
        self._end = f"--{self._boundary}--\r\n".encode()
        framed = sum(len(head) + path.stat().st_size + 2 for head, path in self._parts)
        self.size = len(self._fields) + framed + len(self._end)

    def chunks(self) -> Iterator[bytes]:
        yield self._fields
        for head, path in self._parts:
            yield head
            yield from _read(path)
            yield b"\r\n"
        yield self._end

    def _head(self, name: str, rest: str) -> bytes:
        disposition = f'Content-Disposition: form-data; name="{name}"{rest}'
        return f"--{self._boundary}\r\n{disposition}\r\n\r\n".encode()


def ct_body(ct: Path) -> Body:
    """The body that carries a CT: a file as it is, or every file below a folder in a form.

    Raises:
        EmptyInput: nothing there.
    """
    if ct.is_file():
        return FileBody(ct)
    found = sorted(path for path in ct.rglob("*") if path.is_file())
    if not found:
        raise EmptyInput("There is no file at the path given; name a CT's file or folder.")
    return FormBody({"ct": found}, {})


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
