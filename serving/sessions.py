"""CTs that an annotation client sends once and asks about several times."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from imaging.errors import JobNotFound, ServiceBusy
from serving.api.intake import staged
from serving.jobs.jobs import Jobs
from serving.uploads import Upload

# A CT of half a gigabyte each: what a reading room may leave in the spool at a time.
MOST = 64
MOST_EACH = 4
# What an hour does not touch, the spool removes by itself.
LIFE_S = 3000
_RETRY_S = 60


@dataclass(frozen=True)
class Session:
    """One CT.

    Attributes:
        id: a random UUID.
        name: that its owner gave it; may hold a patient's, so it goes nowhere else.
        owner: subject of the token that sent it; nobody else sees it.
        files: of the CT.
        expires: Unix seconds; a session's life is not renewed.
        held: keeps the folder until it is closed.
    """

    id: str
    name: str | None = field(repr=False)
    owner: str
    files: tuple[Path, ...]
    created: float
    expires: float
    held: AsyncExitStack = field(repr=False)


class Sessions:
    """Bounded in number and time; they lie in the spool, and end with the process at the latest.

    Args:
        jobs: lends the folders.
        most: sessions at a time, of all owners.
        most_each: of one owner, whose oldest gives way.
        life_s: seconds of a session, at most.
    """

    def __init__(
        self, jobs: Jobs, most: int = MOST, most_each: int = MOST_EACH, life_s: int = LIFE_S
    ) -> None:
        self._jobs = jobs
        self._most, self._most_each, self._life_s = most, most_each, life_s
        self._held: dict[str, Session] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def add(
        self,
        owner: str,
        life_s: int,
        receive: Callable[[Path], Awaitable[Upload]],
        name: str | None = None,
    ) -> Session:
        """Receive a CT and keep it.

        Args:
            owner: subject of the token that sends it.
            life_s: seconds that the client asks for; 0 takes the most there is.
            receive: puts the CT's files into a folder.
            name: the owner's own; an earlier one of that name gives way.

        Raises:
            ServiceBusy: too many sessions of others.
            IsletError: what ``receive`` raises.
        """
        await self._make_room(owner, name)
        async with AsyncExitStack() as stack:
            upload = await receive(await stack.enter_async_context(staged(self._jobs)))
            held = stack.pop_all()
        life = min(life_s or self._life_s, self._life_s)
        now = time.time()
        files = tuple(upload.files)
        found = Session(str(uuid.uuid4()), name, owner, files, now, now + life, held)
        self._held[found.id] = found
        asyncio.get_running_loop().call_later(life, self._expire, found.id)
        return found

    def get(self, number: str, owner: str) -> Session:
        """A session by its id.

        Raises:
            JobNotFound: none of that owner's, or not any more.
        """
        found = self._held.get(number)
        if found is None or found.owner != owner:
            raise JobNotFound("There is no such session, or it expired; send the CT again.")
        return found

    def find(self, owner: str, number: str | None, name: str | None) -> Session | None:
        """A session by its id, else by the name that its owner gave it, else none.

        Raises:
            JobNotFound: an id was given and is not there.
        """
        if number:
            return self.get(number, owner)
        own = (s for s in self._held.values() if s.owner == owner and name and s.name == name)
        return next(own, None)

    async def remove(self, number: str, owner: str) -> Session:
        """End a session; its CT is removed.

        Raises:
            JobNotFound: see :meth:`get`.
        """
        found = self.get(number, owner)
        del self._held[number]
        await found.held.aclose()
        return found

    async def _make_room(self, owner: str, name: str | None) -> None:
        replaced = self.find(owner, None, name)
        if replaced is not None:
            await self.remove(replaced.id, owner)
        own = [session for session in self._held.values() if session.owner == owner]
        for session in own[: max(0, len(own) - self._most_each + 1)]:
            await self.remove(session.id, owner)
        if len(self._held) >= self._most:
            raise ServiceBusy(
                f"{self._most} sessions are open, as many as the service keeps; try again in "
                f"{_RETRY_S} s.",
                retry_after_s=_RETRY_S,
            )

    def _expire(self, number: str) -> None:
        found = self._held.pop(number, None)
        if found is not None:
            task = asyncio.ensure_future(found.held.aclose())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


def link(files: tuple[Path, ...], folder: Path) -> None:
    """Let a folder of the same spool hold the files too, without a copy.

    Raises:
        JobNotFound: they are gone.
    """
    try:
        for path in files:
            os.link(path, folder / path.name)
    except FileNotFoundError as error:
        raise JobNotFound("The session expired meanwhile; send the CT again.") from error
