"""HTTP/1.1 whose heads must come in time: a connection that says nothing whole is closed."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Heads(H11Protocol):
    """A connection that is closed when the head of a request is not whole in time.

    The server itself waits for one without an end, and each takes a socket. Bodies are bounded
    where they are read (``serving.guard.passage``).

    Attributes:
        within_s: from the connection's start, or from a further head's first byte.
    """

    within_s: ClassVar[float] = 60.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.within_s, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forgive()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.within_s, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forgive()
        super().connection_lost(exc)

    def _forgive(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
