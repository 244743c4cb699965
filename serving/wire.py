"""HTTP as the client speaks it: retries, and answers that become errors of the tree."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from imaging.errors import BadParameter, IsletError, ServiceBusy, ServiceFailed, TruncatedFile
from serving.bodies import Body

Done = TypeVar("Done")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# A service that never answered is more likely not there than restarting.
_FIRST_MEETING_S = 5.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
# The service is overloaded, or a proxy before it has lost it for a moment.
_AGAIN = frozenset({429, 502, 503, 504})


class RemoteError(IsletError):
    """A service refused with a code that this version does not know, or with no code at all."""

    code = "remote_error"


class Wire:
    """Requests to one service; the arguments are those of ``serving.client.Client``.

    Raises:
        BadParameter: no http or https URL, or a certificate that does not load.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        ca: Path | None,
        certificate: tuple[Path, Path] | None,
        timeout: float,
        patience: float,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadParameter("The server is no URL such as https://islet.example:3000.")
        self._patience = patience
        self._met = False
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            verify=_trust(ca, certificate) if parts.scheme == "https" else False,
            timeout=timeout,
            # A proxy that is set for the outside does not reach this machine's own services.
            trust_env=parts.hostname not in _LOOPBACK,
        )

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, Sequence[str]] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        repeatable: bool = True,
    ) -> Any:
        """The JSON that a request is answered with; ``None`` for an empty answer.

        Args:
            method, path: path below the service's root.
            params: of the query.
            body: streamed.
            headers: further ones.
            json: body instead.
            repeatable: whether asking twice does no more than asking once.

        Raises:
            IsletError: what the service refused with, by its code.
            ServiceFailed: no answer within the patience.
        """

        def once() -> Any:
            sent = dict(headers or {})
            if body is not None:
                sent |= {"Content-Type": body.kind, "Content-Length": str(body.size)}
            content = body.chunks() if body is not None else None
            answer = self._http.request(
                method, path, params=params, headers=sent, content=content, json=json
            )
            self._met = True
            _check(answer)
            return answer.json() if answer.content else None

        return self.patiently(once, repeatable)

    @contextmanager
    def stream(self, path: str, accept: str) -> Iterator[httpx.Response]:
        """An answer whose body is read as it comes.

        Raises:
            IsletError: what the service refused with, by its code.
            httpx.TransportError: the connection is lost.
        """
        with self._http.stream("GET", path, headers={"Accept": accept}) as answer:
            if answer.status_code != httpx.codes.OK:
                answer.read()
                _check(answer)
            yield answer

    def patiently(self, once: Callable[[], Done], repeatable: bool = True) -> Done:
        """What ``once`` gives, tried again while the service is away or its queue is full.

        Raises:
            ServiceFailed: away for longer than the patience, or not to be trusted.
            ServiceBusy: full for longer.
            TruncatedFile: what is sent changed on the way.
        """
        pauses = self.pauses()
        while True:
            try:
                return once()
            except httpx.LocalProtocolError as error:
                raise TruncatedFile("A file changed while it was sent; send it again.") from error
            except httpx.TransportError as error:
                never_sent = isinstance(error, httpx.ConnectError)
                if _untrusted(error) or not (repeatable or never_sent):
                    raise _lost(error) from error
                pauses.next(_lost(error))
            except (ServiceBusy, RemoteError) as error:
                if error.details.get("status") not in _AGAIN:
                    raise
                pauses.next(error)

    def pauses(self) -> Pauses:
        """Pauses within the patience."""
        return Pauses(self._patience if self._met else min(self._patience, _FIRST_MEETING_S))


class Pauses:
    """Growing pauses between tries, for so many seconds since the last success.

    Args:
        patience: seconds.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.reset()

    def reset(self) -> None:
        """A try succeeded."""
        self._pause = _FIRST_PAUSE_S
        self._until = time.monotonic() + self._patience

    def next(self, error: IsletError) -> None:
        """Wait before the next try, as long as the service asked for where it did.

        Raises:
            IsletError: ``error`` itself when the patience does not last that long.
        """
        asked = float(error.details.get("retry_after_s") or 0.0)
        pause = max(self._pause, asked)
        if time.monotonic() + pause > self._until:
            raise error
        time.sleep(pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)


def error_of(found: Mapping[str, Any], status: int | None = None) -> IsletError:
    """The error of the tree that a service's ``code``, ``message`` and ``details`` stand for."""
    code, message = str(found.get("code", "")), str(found.get("message", ""))
    details = found.get("details")
    kind = {kind.code: kind for kind in _tree(IsletError)}.get(code, RemoteError)
    error = kind(message or "The service refused and did not say why.")
    known = {"status": status, "code": code if kind is RemoteError else None}
    error.details = (details if isinstance(details, dict) else {}) | {
        name: value for name, value in known.items() if value
    }
    return error


def _tree(root: type[IsletError]) -> Iterator[type[IsletError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def _check(answer: httpx.Response) -> None:
    """Raise what an answer other than 2xx says."""
    if answer.is_success:
        return
    try:
        found = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        found = {"message": f"The service answered {answer.status_code} without saying why."}
    error = error_of(found if isinstance(found, dict) else {}, answer.status_code)
    wait = answer.headers.get("Retry-After", "")
    if wait.isdecimal():
        error.details = {**error.details, "retry_after_s": int(wait)}
    raise error


def _untrusted(error: BaseException) -> bool:
    """Whether a connection failed over certificates: it will again."""
    cause = error.__cause__ or error.__context__
    return isinstance(error, ssl.SSLError) or (cause is not None and _untrusted(cause))


def _lost(error: httpx.TransportError) -> ServiceFailed:
    if _untrusted(error):
        return ServiceFailed(
            "The service's certificate is not trusted, or it does not trust ours; name the "
            "authority's file (--ca)."
        )
    return ServiceFailed(
        f"The service does not answer ({type(error).__name__}); is it up, and is the URL right?"
    )


def _trust(ca: Path | None, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            context.load_cert_chain(*certificate)
    except OSError as error:
        raise BadParameter(
            f"The certificates do not load ({type(error).__name__}); give PEM files.",
            parameter="ca",
        ) from error
    return context
