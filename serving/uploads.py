"""An HTTP body to files on disk: streamed, with a limit, whatever it is.

Client file names are never used: they may hold names of patients or paths out of the folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from imaging.errors import BadParameter, EmptyInput, InputTooLarge, TruncatedFile
from imaging.limits import MIB, Limits
from serving.firstcome import FirstCome

# Form fields are short words; more of them, or longer ones, are no parameters.
MAX_FIELDS = 64
MAX_FIELD_BYTES = 8192


@dataclass
class Upload:
    """What a body held.

    Attributes:
        files: in the order they came, under names of our own.
        parameters: form fields by name, each with the values it was given.
        digest: SHA-256 over the files' bytes, the same for a form however it was wrapped.
    """

    files: list[Path] = field(default_factory=list)
    parameters: dict[str, list[str]] = field(default_factory=dict)
    digest: bytes = b""


async def receive(request: Request, folder: Path, limits: Limits, line: FirstCome) -> Upload:
    """Stream a request's body into ``folder``, which is made where it is missing.

    A ``multipart/form-data`` body is files (under any field names) and parameters; any other body
    is one file whose content decides what it is, whatever its Content-Type says. Its pieces are
    taken before those of bodies that began later.

    Args:
        request: its body has not been read.
        folder: to write to.
        limits: on bytes and files.
        line: of all uploads.

    Raises:
        InputTooLarge: more bytes or files than the limits; a declared length is refused before
            anything is read, an undeclared one where it passes the limit.
        EmptyInput: no file in the body.
        TruncatedFile: the form breaks off.
        BadParameter: a form that is none, or that has too many or too long fields.
        starlette.requests.ClientDisconnect: the client went away.
    """
    check_length(request, limits)
    folder.mkdir(exist_ok=True)
    kind, options = parse_options_header(request.headers.get("content-type"))
    sink: _Form | _Raw
    if kind == b"multipart/form-data":
        sink = _Form(options.get(b"boundary", b""), folder, limits)
    else:
        sink = _Raw(folder)
    received, place = 0, line.come()
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limits.max_bytes:
                raise _too_large(limits, received)
            if chunk:
                # Disk and parser work stays off the event loop.
                async with place:
                    await anyio.to_thread.run_sync(sink.write, chunk)
        return sink.finish()
    finally:
        sink.close()


def check_length(request: Request, limits: Limits) -> None:
    """Raise ``InputTooLarge`` when the declared length of the body is over the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise _too_large(limits, int(declared))


def _too_large(limits: Limits, size: int) -> InputTooLarge:
    return InputTooLarge(
        f"The body has {size} bytes or more, over the limit of {limits.max_bytes} "
        f"({limits.max_bytes // MIB} MiB); send less, compressed.",
        limit=limits.max_bytes,
    )


class _Raw:
    """A body that is one file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "body"
        self._file = self._path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)

    def finish(self) -> Upload:
        self._file.close()
        if not self._path.stat().st_size:
            raise EmptyInput("The body is empty; send a CT as the body or in a multipart form.")
        return Upload([self._path], digest=self._digest.digest())

    def close(self) -> None:
        self._file.close()


class _Form:
    """A multipart body: each file goes to disk as it comes, one open at a time.

    Starlette's own form keeps up to a megabyte of every file in memory and a descriptor open for
    each: a CT of a thousand slices would lie in memory as a whole.
    """

    def __init__(self, boundary: bytes, folder: Path, limits: Limits) -> None:
        if not boundary:
            raise BadParameter("The multipart Content-Type has no boundary; let the client set it.")
        self._folder = folder
        self._limits = limits
        self._upload = Upload()
        self._fields = 0
        self._ended = False
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._name = ""
        self._value = bytearray()
        self._file: BinaryIO | None = None
        # Of the files' own digests: where one file ends and the next begins counts.
        self._digest = hashlib.sha256()
        self._of_file = hashlib.sha256()
        callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._part_begin,
            "on_header_begin": self._header_begin,
            "on_header_field": lambda data, a, b: self._header[0].extend(data[a:b]),
            "on_header_value": lambda data, a, b: self._header[1].extend(data[a:b]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _broken(error) from error

    def write(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _broken(error) from error

    def finish(self) -> Upload:
        if not self._ended:
            raise TruncatedFile("The multipart form breaks off before its end; send it again.")
        if not self._upload.files:
            raise EmptyInput(
                "The form holds no file; add a part with a filename, such as curl -F ct=@ct.nii.gz."
            )
        self._upload.digest = self._digest.digest()
        return self._upload

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _part_begin(self) -> None:
        self._disposition = b""
        self._value = bytearray()

    def _header_begin(self) -> None:
        self._header = (bytearray(), bytearray())

    def _header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        # A form sent with no file chosen has a file part with an empty name.
        if options.get(b"filename"):
            self._open_next()
            return
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise BadParameter(f"The form has more than {MAX_FIELDS} fields; send parameters once.")

    def _open_next(self) -> None:
        count = len(self._upload.files)
        if count >= self._limits.max_files:
            raise InputTooLarge(
                f"The form holds more than {self._limits.max_files} files; send one series.",
                limit=self._limits.max_files,
            )
        path = self._folder / f"{count:06d}"
        self._file = path.open("wb")
        self._of_file = hashlib.sha256()
        self._upload.files.append(path)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            self._of_file.update(data[start:end])
            return
        if len(self._value) + end - start > MAX_FIELD_BYTES:
            raise BadParameter(
                f"The form field {self._name[:64]!r} is longer than {MAX_FIELD_BYTES} bytes; "
                "send a CT as a part with a filename.",
                parameter=self._name[:64],
            )
        self._value.extend(data[start:end])

    def _part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._digest.update(self._of_file.digest())
        elif self._name and self._value:
            text = self._value.decode("utf-8", "replace")
            self._upload.parameters.setdefault(self._name, []).append(text)

    def _end(self) -> None:
        self._ended = True


def _broken(error: FormParserError) -> BadParameter:
    return BadParameter(f"The multipart form does not parse ({error}); send it again.")
