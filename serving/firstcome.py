"""Few at a time, whoever came first before all others."""

from __future__ import annotations

import asyncio
import heapq
from types import TracebackType


class FirstCome:
    """Lets a few at a time do a step of their work, the one that began first before all others.

    Uploads that come at once would all be whole at the end if each had its turn; so the first is
    whole, and at work, long before. Nobody waits for one whose next piece is not here yet: a slow
    line holds nobody up. For one event loop.

    Args:
        width: how many do a step at a time.
    """

    def __init__(self, width: int) -> None:
        self._free = width
        self._came = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def come(self) -> Place:
        """A place behind all that came before."""
        self._came += 1
        return Place(self, self._came)

    async def _enter(self, number: int) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (number, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next()
            raise

    def _next(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[1]
            # One that was cancelled while it waited is gone.
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Place:
    """One's place: ``async with`` it for every step, one step at a time."""

    def __init__(self, line: FirstCome, number: int) -> None:
        self._line = line
        self._number = number

    async def __aenter__(self) -> None:
        await self._line._enter(self._number)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Its own next step may be ready as soon as it goes on: then that one is first again.
        asyncio.get_running_loop().call_soon(self._line._next)
