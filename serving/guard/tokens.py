"""Tokens in a TOML file, as hashes, with who they are for and what they allow.

A token is 256 random bits. Its SHA-256 is stored: nobody finds a token from that by trying, so the
slow hashes that protect passwords would only slow every request. What was not made by
:func:`new_secret` has another form and is refused, so that nobody puts a password here.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from imaging.errors import BadParameter, IsletError
from imaging.files import whole_file
from serving.guard.identity import LOCAL, Identity, Role

logger = logging.getLogger("islet.guard")

# Lets scanners of code and logs recognise a token that leaked.
PREFIX = "islet_"
_SECRET = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADER = (
    "# Hashes of tokens, written by `islet token`. Remarks belong in `note`: comments are lost.\n"
)
_CHECK_EVERY_S = 1.0


@dataclass(frozen=True)
class Token:
    """One entry of the file.

    Attributes:
        subject: who holds it; owner of the jobs that it submits.
        roles: at least one.
        sha256: of the token, in hexadecimal.
        created: when.
        expires: from when it is refused; ``None`` is never.
        note: for the operator.

    Raises:
        BadParameter: a value outside its range.
    """

    subject: str
    roles: frozenset[Role]
    sha256: str
    created: datetime
    expires: datetime | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not _SUBJECT.fullmatch(self.subject) or self.subject == LOCAL.subject:
            raise BadParameter(
                f"{self.subject[:64]!r} is no subject; use up to 64 letters, digits and . _ @ -, "
                f"and not {LOCAL.subject!r}."
            )
        if not self.roles:
            raise BadParameter(f"{self.subject} has no role; grant one of {', '.join(Role)}.")
        if not _SHA256.fullmatch(self.sha256):
            raise BadParameter(f"The sha256 of {self.subject} is no 64 hexadecimal digits.")
        for moment in (self.created, self.expires):
            if moment is not None and moment.tzinfo is None:
                raise BadParameter(
                    f"{moment.isoformat()} of {self.subject} has no time zone; write it with Z."
                )

    @property
    def id(self) -> str:
        """Names the token without giving it away."""
        return self.sha256[:12]

    def expired(self, now: datetime) -> bool:
        """Whether it is refused by now."""
        return self.expires is not None and now >= self.expires


def new_secret() -> str:
    """A token nobody has."""
    return PREFIX + secrets.token_urlsafe(32)


def sha256_of(secret: str) -> str:
    """What the file keeps of a token."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Every entry of the file, expired ones too.

    Raises:
        BadParameter: the file is missing, broken, or writable by others.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8")
        entries = tomllib.loads(text).get("token", [])
    except OSError as error:
        raise BadParameter(
            f"{path.name} cannot be read ({error.strerror}); make it with `islet token new`."
        ) from error
    except ValueError as error:
        raise BadParameter(f"{path.name} is no TOML: {error}.") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadParameter(
            f"{path.name} can be written by others, who could let themselves in; "
            f"chmod 600 {path.name}."
        )
    if not isinstance(entries, list):
        raise BadParameter(f"token of {path.name} is no list; write [[token]] over each.")
    found = tuple(_entry(path, number, entry) for number, entry in enumerate(entries, 1))
    if mode & stat.S_IROTH:
        logger.warning("%s can be read by all: it names who may ask; chmod 600 it", path.name)
    return found


def _entry(path: Path, number: int, entry: Any) -> Token:
    where = f"token {number} of {path.name}"
    known = {"subject", "roles", "sha256", "created", "expires", "note"}
    if not isinstance(entry, dict) or not set(entry) <= known:
        raise BadParameter(f"In {where}: the fields are {', '.join(sorted(known))}.")
    try:
        return Token(
            subject=_text(entry, "subject"),
            roles=frozenset(Role(role) for role in entry["roles"]),
            sha256=_text(entry, "sha256"),
            created=_moment(entry["created"]),
            expires=_moment(entry["expires"]) if "expires" in entry else None,
            note=_text(entry, "note") if "note" in entry else "",
        )
    except KeyError as error:
        raise BadParameter(f"In {where}: {error} is missing.") from error
    except (TypeError, ValueError) as error:
        raise BadParameter(f"In {where}: {error}.") from error
    except IsletError as error:
        raise BadParameter(f"In {where}: {error.message}") from error


def _text(entry: Mapping[str, Any], name: str) -> str:
    if not isinstance(entry[name], str):
        raise TypeError(f"{name} is no text")
    return str(entry[name])


def _moment(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"{value} is no time such as 2026-01-31T00:00:00Z")
    return value


@contextmanager
def changed_tokens(path: Path) -> Iterator[list[Token]]:
    """The entries, to be changed in place; the file is replaced in one step after the block.

    Two who change it take turns. A file that is not there yet is empty, and made for its owner
    alone; one that is there keeps its mode.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        there = path.stat() if path.exists() else None
        tokens = list(read_tokens(path)) if there else []
        yield tokens
        with whole_file(path, durable=True) as file:
            file.write(_HEADER.encode() + tomli_w.dumps(_document(tokens)).encode())
        path.chmod(stat.S_IMODE(there.st_mode) if there else 0o600)
        if there and os.geteuid() == 0:
            # An administrator's change must not lock the service's own user out.
            os.chown(path, there.st_uid, there.st_gid)
    finally:
        os.close(folder)


def _document(tokens: Sequence[Token]) -> dict[str, Any]:
    entries = []
    for token in tokens:
        entry: dict[str, Any] = {
            "subject": token.subject,
            "roles": sorted(token.roles),
            "sha256": token.sha256,
            "created": token.created,
        }
        if token.expires is not None:
            entry["expires"] = token.expires
        if token.note:
            entry["note"] = token.note
        entries.append(entry)
    return {"token": entries}


class TokenFile:
    """The tokens of a file, read again when it changes.

    A file that breaks or goes while the service runs leaves the tokens that were read last, and an
    error in the log: a slip of an editor must not stop a hospital.

    Args:
        path: of the file.
        clock: seconds; the file is looked at once a second.

    Raises:
        BadParameter: it cannot be read now.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._checked = clock()
        self._mark = self._look()
        self._tokens = read_tokens(path)

    def identify(self, secret: str) -> Identity | None:
        """Whose token it is; ``None`` when nobody's, or expired."""
        if not _SECRET.fullmatch(secret):
            return None
        self._refresh()
        digest, found = sha256_of(secret), None
        for token in self._tokens:
            # Every entry is compared, each in constant time: how long it takes tells nothing.
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is None or found.expired(datetime.now(UTC)):
            return None
        return Identity(found.subject, found.roles)

    def _refresh(self) -> None:
        if self._clock() - self._checked < _CHECK_EVERY_S:
            return
        self._checked = self._clock()
        mark = self._look()
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self._tokens = read_tokens(self._path)
        except BadParameter as error:
            logger.error("the tokens read before stay in force: %s", error.message)
        else:
            logger.info("%d tokens read", len(self._tokens))

    def _look(self) -> tuple[int, ...]:
        try:
            now = self._path.stat()
        except OSError:
            return ()
        return now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
