"""Bounds on who asks: how slowly, how often wrongly, how much at once."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imaging.errors import ServiceBusy


class Presence:
    """Requests under way by subject.

    Args:
        most: of one subject.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside: Counter[str] = Counter()

    @contextmanager
    def of(self, subject: str) -> Iterator[None]:
        """Count one request in for the length of the block.

        Raises:
            ServiceBusy: as many as may be are under way.
        """
        if self._inside[subject] >= self._most:
            raise ServiceBusy(
                f"{self._most} requests of this token are under way, as many as may be; wait for "
                "one to end.",
                retry_after_s=1,
            )
        self._inside[subject] += 1
        try:
            yield
        finally:
            self._inside[subject] -= 1
            if not self._inside[subject]:
                del self._inside[subject]


class Strikes:
    """Wrong tokens by address, in bounded memory: the address seen longest ago goes first.

    Args:
        most: before an address has to wait.
        window_s: from its first wrong token on, after which its count starts again.
        clock: seconds.
        remembered: addresses.
    """

    def __init__(
        self,
        most: int,
        window_s: float,
        clock: Callable[[], float] = time.monotonic,
        remembered: int = 4096,
    ) -> None:
        self._most = most
        self._window_s = window_s
        self._clock = clock
        self._remembered = remembered
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def strike(self, address: str) -> None:
        """Count a wrong token.

        Raises:
            ServiceBusy: one too many for this window.
        """
        key, now = _network(address), self._clock()
        since, count = self._seen.pop(key, (now, 0))
        if now - since >= self._window_s:
            since, count = now, 0
        self._seen[key] = since, count + 1
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        if count >= self._most:
            wait = max(1, round(since + self._window_s - now))
            raise ServiceBusy(
                f"More than {self._most} wrong tokens came from this address; send a valid one, or "
                f"wait {wait} s.",
                retry_after_s=wait,
            )


def _network(address: str) -> str:
    """What one party holds: an IPv4 address, or the /64 around an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed.packed, 64), strict=False))
