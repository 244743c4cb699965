"""Certificates towards an archive: whom Islet trusts and what it shows of itself."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from imaging.errors import BadParameter


@dataclass(frozen=True)
class Tls:
    """Files in PEM.

    Attributes:
        ca: certificates that are trusted; ``None`` takes the system's.
        certificate, key: what Islet shows of itself; ``None`` shows nothing.

    Raises:
        BadParameter: a key without a certificate or the other way round, or no file there.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise BadParameter("tls needs certificate and key together, or neither.")
        for name in ("ca", "certificate", "key"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise BadParameter(f"tls names {path} as {name}; there is no such file.", key=name)

    def client(self) -> ssl.SSLContext:
        """A context that checks the other side's certificate and name."""
        return self._filled(ssl.create_default_context(cafile=self.ca))

    def server(self) -> ssl.SSLContext:
        """A context that shows the certificate and, with ``ca``, asks callers for theirs."""
        if self.certificate is None:
            raise BadParameter("tls of the listener needs certificate and key.")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return self._filled(context)

    def _filled(self, context: ssl.SSLContext) -> ssl.SSLContext:
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context
