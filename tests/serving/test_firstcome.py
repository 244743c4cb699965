"""Whoever came first goes first, nobody waits for who is not ready, and no place is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message

from imaging.limits import Limits
from serving.firstcome import FirstCome, Place
from serving.uploads import receive

LIMITS = Limits(max_bytes=1 << 20)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _work(place: Place, name: str, steps: int, done: list[str]) -> None:
    for _ in range(steps):
        async with place:
            await asyncio.sleep(0.001)
            done.append(name)


async def _within(work: Awaitable[object]) -> None:
    await asyncio.wait_for(work, 10.0)


@pytest.mark.parametrize("width", [1, 2, 3])
async def test_who_came_first_is_done_first(width: int) -> None:
    line, done = FirstCome(width), list[str]()
    await _within(asyncio.gather(*(_work(line.come(), name, 4, done) for name in "abcdef")))
    ends = [max(i for i, who in enumerate(done) if who == name) for name in "abcdef"]
    assert ends == sorted(ends)
    # Those that share the places do a step each while the first does one.
    assert ends[0] < 4 * width


async def test_places_are_no_more_than_there_are() -> None:
    line, inside, most = FirstCome(2), 0, 0

    async def work(place: Place) -> None:
        nonlocal inside, most
        for _ in range(5):
            async with place:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

    await _within(asyncio.gather(*(work(line.come()) for _ in range(7))))
    assert (inside, most) == (0, 2)


async def test_nobody_waits_for_one_whose_next_step_is_not_ready() -> None:
    line, done = FirstCome(1), list[str]()
    slow, quick = line.come(), line.come()
    async with slow:
        pass
    await _within(_work(quick, "quick", 3, done))
    assert done == ["quick"] * 3


@pytest.mark.parametrize("late", [False, True])
async def test_who_is_cancelled_takes_no_place_along(late: bool) -> None:
    line, done = FirstCome(1), list[str]()
    first = line.come()
    async with first:
        leaver = asyncio.create_task(_work(line.come(), "gone", 1, done))
        await asyncio.sleep(0)
        if not late:
            leaver.cancel()
    if late:
        # Its turn has come, and it has not seen it yet.
        await asyncio.sleep(0)
        leaver.cancel()
    await _within(_work(line.come(), "next", 2, done))
    await asyncio.gather(leaver, return_exceptions=True)
    assert leaver.cancelled()
    assert done == ["next", "next"]


async def test_an_error_gives_the_place_back() -> None:
    line, done = FirstCome(1), list[str]()
    with pytest.raises(OSError, match="no space"):
        async with line.come():
            raise OSError("no space")
    await _within(_work(line.come(), "next", 1, done))
    assert done == ["next"]


def _request(pieces: list[bytes], taken: list[int], who: int) -> Request:
    left = list(pieces)

    async def bring() -> Message:
        taken[who] += 1
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return Request({"type": "http", "headers": [], "method": "POST"}, bring)


async def test_of_uploads_at_once_the_first_is_whole_before_most_of_the_others_have_begun(
    tmp_path: Path,
) -> None:
    """So its job is at work while they come."""
    line, taken, count = FirstCome(2), [0] * 8, 20
    pieces = [bytes([n]) * 100 for n in range(count)]
    seen: list[tuple[int, int]] = []

    async def upload(who: int) -> None:
        request = _request(pieces, taken, who)
        found = await receive(request, tmp_path / str(who), LIMITS, line)
        seen.append((who, sum(taken)))
        assert found.files[0].read_bytes() == b"".join(pieces)

    await _within(asyncio.gather(*map(upload, range(8))))
    first, pieces_taken = seen[0]
    assert first in (0, 1)
    # Two were taken side by side; of each of the others one piece waits to be written.
    assert pieces_taken <= 2 * count + 7
