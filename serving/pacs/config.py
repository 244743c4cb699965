"""Which archives there are: a TOML file of the operator, so that no request can name an address.

::

    [servers.main]                        # DICOMweb
    url = "https://pacs.example/dicom-web"
    user = "islet"
    password_file = "secrets/main"        # or password_env = "MAIN_PASSWORD", or token_file
    tls = { ca = "tls/ca.pem", certificate = "tls/islet.pem", key = "tls/islet.key" }

    [peers.archive]                       # DIMSE
    aet = "ARCHIVE"
    host = "10.0.0.7"
    port = 104

    [listener]                            # what ``islet dimse`` takes in
    callers = ["CT1"]
    send_to = "archive"

A certificate is always checked. A server with a certificate of its own making is trusted by naming
that certificate as ``ca``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from imaging.errors import BadParameter, ServerNotAllowed
from serving.pacs.table import Table
from serving.pacs.tls import Tls

Configured = TypeVar("Configured")

DICOM_OUTPUTS = ("seg", "rtstruct", "sr")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# PS3.5 6.2: an AE title has 16 characters of the default repertoire, no backslash, no control
# characters; spaces around it do not count.
_AET = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")
_PREFIX = re.compile(r"[A-Za-z0-9._~/-]+")


@dataclass(frozen=True)
class Server:
    """A DICOMweb server.

    Attributes:
        name: what requests call it.
        url: base of its paths.
        qido, wado, stow: put behind the base for searching, fetching and storing.
        user: of basic authentication; its password is in ``password_file`` or in the environment
            variable ``password_env``.
        token_file: holds a bearer token; read again for every job.
        tls: for ``https``.
        timeout_s: it may be silent that long; a search may take that long altogether.
        transfer_s: fetching a series, or storing one object, may take that long altogether.

    Raises:
        BadParameter: a value that cannot be meant.
    """

    name: str
    url: str
    qido: str | None = None
    wado: str | None = None
    stow: str | None = None
    user: str | None = None
    password_file: Path | None = None
    password_env: str | None = None
    token_file: Path | None = None
    tls: Tls = field(default_factory=Tls)
    timeout_s: float = 30.0
    transfer_s: float = 1800.0

    def __post_init__(self) -> None:
        _check_name(self.name)
        parts = urlsplit(self.url)
        plain = not (parts.username or parts.password or parts.query or parts.fragment)
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            raise BadParameter(
                f"The url of server {self.name} must be http:// or https://, a host and a path, "
                "without a user or a query; give the user under `user`.",
                server=self.name,
            )
        for prefix in (self.qido, self.wado, self.stow):
            if prefix is not None and not _PREFIX.fullmatch(prefix):
                raise BadParameter(
                    f"Server {self.name} has the path {prefix[:64]!r}; use letters, digits, "
                    "dots, dashes and slashes.",
                    server=self.name,
                )
        self._check_credentials()

    def _check_credentials(self) -> None:
        passwords = [self.password_file, self.password_env]
        given = sum(value is not None for value in passwords)
        if given != (self.user is not None) or (self.user and self.token_file):
            raise BadParameter(
                f"Server {self.name} needs user with one of password_file and password_env, or "
                "token_file, or none of them.",
                server=self.name,
            )

    @property
    def in_clear(self) -> bool:
        """Whether credentials would travel unencrypted to another machine."""
        parts = urlsplit(self.url)
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        return parts.scheme == "http" and not local and bool(self.user or self.token_file)

    def password(self) -> str:
        """The password, as it is now.

        Raises:
            BadParameter: neither file nor variable has one.
        """
        if self.password_file is not None:
            return secret(self.password_file, self.name)
        found = os.environ.get(self.password_env or "")
        if not found:
            raise BadParameter(
                f"The variable {self.password_env} with the password of server {self.name} is "
                "not set.",
                server=self.name,
            )
        return found


@dataclass(frozen=True)
class Peer:
    """A DIMSE application.

    Attributes:
        name: what requests and the listener call it.
        aet: its application entity title.
        host, port: where it listens.
        tls: ``None`` speaks without.
        timeout_s: for every answer.

    Raises:
        BadParameter: a value that cannot be meant.
    """

    name: str
    aet: str
    host: str
    port: int
    tls: Tls | None = None
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        _check_name(self.name)
        check_aet(self.aet)
        if not 1 <= self.port <= 65535:
            raise BadParameter(f"Peer {self.name} has the port {self.port}; use 1 to 65535.")


@dataclass(frozen=True)
class Listener:
    """What the DIMSE listener takes in, and where results go.

    Attributes:
        callers: application entity titles that may send.
        send_to: peer that gets the results; ``None`` sends them back to the caller, whose title
            must then be a peer's.
        model, structures, outputs: as in a request; ``None`` and empty take the defaults.
        quiet_s: a series counts as whole when nothing of it came for that long.
        associations: at a time.
        tls: ``None`` speaks without.

    Raises:
        BadParameter: a value that cannot be meant.
    """

    callers: tuple[str, ...]
    send_to: str | None = None
    model: str | None = None
    structures: tuple[str, ...] = ()
    outputs: tuple[str, ...] = DICOM_OUTPUTS
    quiet_s: float = 5.0
    associations: int = 8
    tls: Tls | None = None

    def __post_init__(self) -> None:
        for caller in self.callers:
            check_aet(caller)
        if not self.callers:
            raise BadParameter("[listener] has no callers; name the titles that may send.")
        wrong = [name for name in self.outputs if name not in DICOM_OUTPUTS]
        if wrong or not self.outputs:
            raise BadParameter(
                f"[listener] has the outputs {', '.join(self.outputs)[:64]!r}; use some of "
                f"{', '.join(DICOM_OUTPUTS)}."
            )


@dataclass(frozen=True)
class Pacs:
    """Every archive that may be asked.

    Attributes:
        servers, peers: by name.
        listener: ``None`` takes nothing in.
    """

    servers: Mapping[str, Server] = field(default_factory=dict)
    peers: Mapping[str, Peer] = field(default_factory=dict)
    listener: Listener | None = None

    def server(self, name: str) -> Server:
        """The named DICOMweb server.

        Raises:
            ServerNotAllowed: it is not configured.
        """
        return _named(name, self.servers, "DICOMweb server", "[servers]")

    def peer(self, name: str) -> Peer:
        """The named DIMSE peer.

        Raises:
            ServerNotAllowed: it is not configured.
        """
        return _named(name, self.peers, "DIMSE peer", "[peers]")

    def destination(self, caller: str) -> Peer:
        """Where the results of a caller's series go.

        Raises:
            ServerNotAllowed: neither ``send_to`` nor a peer of the caller's title.
        """
        if self.listener is not None and self.listener.send_to is not None:
            return self.peer(self.listener.send_to)
        for peer in self.peers.values():
            if peer.aet == caller:
                return peer
        raise ServerNotAllowed(
            f"Nothing says where the results of {caller} go; set send_to under [listener] or add "
            "a peer of that title.",
            caller=caller,
        )


def load(path: Path | None) -> Pacs:
    """Read the configuration; without a file nothing may be asked.

    Paths in it are relative to its folder.

    Raises:
        BadParameter: no such file, no TOML, an unknown key or a value that cannot be meant.
    """
    if path is None:
        return Pacs()
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadParameter(
            f"{path.name} cannot be read as TOML ({error}); see docs/pacs.md."
        ) from error
    top = Table(path.name, found, path.parent)
    servers = {name: _server(name, table) for name, table in top.tables("servers").items()}
    peers = {name: _peer(name, table) for name, table in top.tables("peers").items()}
    inner = top.table("listener")
    listener = None if inner is None else _listener(inner)
    top.done()
    pacs = Pacs(servers, peers, listener)
    for caller in listener.callers if listener else ():
        pacs.destination(caller)
    return pacs


def secret(path: Path, server: str) -> str:
    """The first line of a file that holds a password or a token.

    Raises:
        BadParameter: no such file, or nothing in it.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameter(
            f"The credentials of {server} cannot be read from {path.name}.", server=server
        ) from error
    if not lines or not lines[0].strip():
        raise BadParameter(f"There is nothing in {path.name} of {server}.", server=server)
    return lines[0].strip()


def check_aet(title: str) -> None:
    """Raise ``BadParameter`` for what is no application entity title."""
    if not _AET.fullmatch(title):
        raise BadParameter(
            f"{title[:32]!r} is no application entity title; use 1 to 16 letters, digits and signs."
        )


def _named(name: str, among: Mapping[str, Configured], kind: str, section: str) -> Configured:
    if name not in among:
        raise ServerNotAllowed(
            f"There is no {kind} {name[:64]!r}; there are: {', '.join(among) or 'none'}. The "
            f"operator adds one under {section}.",
            server=name[:64],
            known=list(among),
        )
    return among[name]


def _server(name: str, table: Table) -> Server:
    server = Server(
        name,
        table.needed("url"),
        qido=table.text("qido"),
        wado=table.text("wado"),
        stow=table.text("stow"),
        user=table.text("user"),
        password_file=table.path("password_file"),
        password_env=table.text("password_env"),
        token_file=table.path("token_file"),
        tls=_tls(table) or Tls(),
        timeout_s=table.number("timeout_s", Server.timeout_s),
        transfer_s=table.number("transfer_s", Server.transfer_s),
    )
    table.done()
    return server


def _peer(name: str, table: Table) -> Peer:
    peer = Peer(
        name,
        table.needed("aet"),
        table.needed("host"),
        int(table.number("port", 104)),
        _tls(table),
        table.number("timeout_s", Peer.timeout_s),
    )
    table.done()
    return peer


def _listener(table: Table) -> Listener:
    listener = Listener(
        table.words("callers"),
        table.text("send_to"),
        table.text("model"),
        table.words("structures"),
        table.words("outputs") or DICOM_OUTPUTS,
        table.number("quiet_s", Listener.quiet_s),
        int(table.number("associations", Listener.associations)),
        _tls(table),
    )
    table.done()
    return listener


def _tls(table: Table) -> Tls | None:
    inner = table.table("tls")
    if inner is None:
        return None
    tls = Tls(inner.path("ca"), inner.path("certificate"), inner.path("key"))
    inner.done()
    return tls


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadParameter(
            f"{name[:64]!r} is no name of an archive; use lower-case letters, digits and dashes."
        )
