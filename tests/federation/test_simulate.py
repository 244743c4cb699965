"""An exchange inside one machine."""

from __future__ import annotations

import time

from federation.simulate import Lanes
from tests.federation.sites import job


def test_nothing_to_wait_for_is_waited_for_all_the_same() -> None:
    """A conductor that asks again and again would keep a core busy until its deadline."""
    with Lanes(job(), (), workers=1) as lanes:
        began, busy = time.monotonic(), time.thread_time()
        assert lanes.receive(0.2) is None
        assert time.monotonic() - began >= 0.19
        assert time.thread_time() - busy < 0.1
