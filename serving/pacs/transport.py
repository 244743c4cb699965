"""HTTP towards an archive: to the configured address only, with an end to every answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from pydicom.errors import InvalidDicomError
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.util.retry import Retry

from imaging.errors import BadParameter, InputTooLarge, PacsError
from imaging.version import VERSION
from serving.pacs.config import Server, secret

_PIECE_BYTES = 65536
# An archive that restarts is worth another try; none of these has changed anything.
_RETRIES = Retry(
    total=3,
    read=False,
    other=False,
    redirect=0,
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=("GET",),
    backoff_factor=0.5,
    respect_retry_after_header=False,
    raise_on_status=False,
)
# How a library shows that an answer was not what the standard says.
_NONSENSE = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, NotImplementedError),
    *(InvalidDicomError, BadParameter),
)


def open_session(server: Server, most_bytes: int, seconds: float) -> requests.Session:
    """A session that speaks to one server.

    Proxies, certificates and credentials of the environment are left out: what the configuration
    says holds.

    Args:
        server: whom to speak to.
        most_bytes: of one answer.
        seconds: of one answer, from its header to its end.
    """
    session = requests.Session()
    session.trust_env = False
    session.headers.update({"User-Agent": f"islet/{VERSION}", "Accept-Encoding": "identity"})
    if server.user is not None:
        session.auth = HTTPBasicAuth(server.user.encode(), server.password().encode())
    if server.token_file is not None:
        session.headers["Authorization"] = f"Bearer {secret(server.token_file, server.name)}"
    if server.tls.ca is not None:
        session.verify = str(server.tls.ca)
    if server.tls.certificate is not None:
        session.cert = (str(server.tls.certificate), str(server.tls.key))
    adapter = _Bounded(server.name, most_bytes, seconds)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Bounded(HTTPAdapter):
    """Follows no redirect, and cuts an answer that is too long or takes too long."""

    def __init__(self, server: str, most_bytes: int, seconds: float) -> None:
        super().__init__(max_retries=_RETRIES)
        self._server = server
        self._most_bytes = most_bytes
        self._seconds = seconds

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        response = super().send(request, *args, **kwargs)
        if 300 <= response.status_code < 400:
            response.close()
            raise PacsError(
                f"{self._server} answered with a redirect ({response.status_code}), which is not "
                "followed; have its final address configured.",
                server=self._server,
                status=response.status_code,
            )
        # The library compares the whole field with the bare media type.
        kind, _, _ = response.headers.get("Content-Type", "").partition(";")
        if kind.strip().endswith(("json", "/xml", "+xml")):
            response.headers["Content-Type"] = kind.strip()
        limits = (self._server, self._most_bytes, self._seconds)
        response.raw = _BoundedBody(response.raw, *limits)
        return response


class _BoundedBody:
    """What ``requests`` needs of an answer's body."""

    def __init__(self, raw: Any, server: str, most_bytes: int, seconds: float) -> None:
        self._raw = raw
        self._server = server
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def stream(self, _: int, decode_content: bool = True) -> Iterator[bytes]:
        """Pieces as they come: a server that drips does not hold the reader past the deadline."""
        try:
            yield from self._pieces(decode_content)
        except BaseException:
            # What is left of the answer would be the beginning of the next one.
            self.close()
            raise

    def _pieces(self, decode_content: bool) -> Iterator[bytes]:
        received = 0
        while piece := self._raw.read1(_PIECE_BYTES, decode_content=decode_content):
            received += len(piece)
            if received > self._most_bytes:
                raise InputTooLarge(
                    f"{self._server} sends more than {self._most_bytes} bytes; the limit is the "
                    "operator's.",
                    server=self._server,
                    max_bytes=self._most_bytes,
                )
            if time.monotonic() > self._deadline:
                raise PacsError(
                    f"{self._server} did not finish its answer within {self._seconds:g} s.",
                    server=self._server,
                )
            yield piece

    def close(self) -> None:
        self._raw.close()

    def release_conn(self) -> None:
        self._raw.release_conn()


@contextmanager
def asking(server: Server, doing: str) -> Iterator[None]:
    """Turn whatever goes wrong with a server into one sentence that names it.

    No text of an answer or of an exception goes into it: there may be a patient's header in them.

    Raises:
        PacsError: always in place of the library's errors.
    """
    try:
        yield
    except requests.HTTPError as error:
        raise _failed(server, doing, *_status(error)) from error
    except requests.exceptions.SSLError as error:
        raise _failed(
            server, doing, "the TLS connection failed; check its certificate and the `ca`"
        ) from error
    except requests.Timeout as error:
        raise _failed(server, doing, f"no answer within {server.timeout_s:g} s") from error
    except _NONSENSE as error:
        raise _failed(server, doing, "the answer is not what DICOMweb says") from error
    except requests.RequestException as error:
        raise _failed(server, doing, "the connection failed or broke off") from error


def _status(error: requests.HTTPError) -> tuple[str, Mapping[str, Any]]:
    status = error.response.status_code if error.response is not None else 0
    hint = {401: "; check its credentials", 403: "; check its credentials", 404: "; is it there?"}
    return f"HTTP status {status}{hint.get(status, '')}", {"status": status}


def _failed(
    server: Server, doing: str, what: str, more: Mapping[str, Any] | None = None
) -> PacsError:
    return PacsError(
        f"{server.name} failed while {doing}: {what}.",
        server=server.name,
        doing=doing,
        **(more or {}),
    )
