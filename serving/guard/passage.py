"""One request's way through the guard: what came in, what went out, and how slowly."""

from __future__ import annotations

import time

import anyio
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from imaging.errors import IsletError, ProviderAway, ServiceBusy, SlowBody
from serving.guard.headers import finish_headers
from serving.settings import Bounds
from serving.statuses import status_of


class Passage:
    """Wraps a request's ``receive`` and ``send``.

    Args:
        scope: of the request.
        receive: of the server.
        send: of the server.
        bounds: on the body's speed.
        guarded: whether the answer may hold something of a patient.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, bounds: Bounds, guarded: bool
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._bounds = bounds
        self._guarded = guarded
        self._began = time.monotonic()
        self._whole = False
        self._waited = 0.0
        self._since = 0
        self._slow: SlowBody | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.status: int | None = None

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return time.monotonic() - self._began

    @property
    def given_up(self) -> bool:
        """Whether the body came too slowly, and the application was told of a client gone."""
        return self._slow is not None

    async def receive(self) -> Message:
        """The next message; a body that stalls or trickles ends as if its client had gone."""
        if self._whole:
            return await self._receive()
        began = time.monotonic()
        message = await self._in_time()
        self._waited += time.monotonic() - began
        if message["type"] != "http.request":
            self._whole = True
            return message
        self.bytes_in += len(message.get("body", b""))
        self._since += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if not self._whole and self._waited >= self._bounds.stall_s:
            if self._since < self._bounds.slowest * self._waited:
                return self._give_up()
            self._waited, self._since = 0.0, 0
        return message

    async def _in_time(self) -> Message:
        with anyio.move_on_after(self._bounds.stall_s):
            return await self._receive()
        return self._give_up()

    def _give_up(self) -> Message:
        self._whole = True
        self._slow = SlowBody(
            f"The body brought fewer than {self._bounds.slowest} bytes a second for "
            f"{self._bounds.stall_s} s; send it again over a faster line.",
            stall_s=self._bounds.stall_s,
        )
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Pass a message of the application on, with the headers that it lacks."""
        if self._slow is not None and self.status is None:
            # What the application says to a client that it takes for gone; ``finish`` says more.
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            finish_headers(MutableHeaders(scope=message), message["status"], self._guarded)
        self.bytes_out += len(message.get("body", b""))
        await self._send(message)

    async def finish(self) -> IsletError | None:
        """Answer a body that was given up, where nothing was answered yet; the error if so."""
        slow, self._slow = self._slow, None
        if slow is None or self.status is not None:
            return None
        await self.refuse(slow)
        return slow

    async def refuse(self, error: IsletError) -> None:
        """Answer with an error of the tree."""
        headers = {}
        if isinstance(error, ServiceBusy | ProviderAway):
            headers["Retry-After"] = str(error.details["retry_after_s"])
        if isinstance(error, SlowBody):
            headers["Connection"] = "close"
        await self.answer(status_of(error), {"error": error.as_dict()}, headers)

    async def answer(self, status: int, body: object, headers: dict[str, str]) -> None:
        """Answer with JSON."""
        response = JSONResponse(body, status, headers)
        await response(self._scope, self.receive, self.send)
