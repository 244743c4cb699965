"""A whole job on one machine without a network: the same policy, sites and bytes as between many.

Sites share a few worker processes, so that hundreds fit; each is asked one thing at a time.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from types import TracebackType

from federation.conduct import conduct
from federation.coordinator import Coordinator
from federation.exchange import Reply
from federation.home import Home
from federation.job import Job
from federation.progress import Round
from federation.site import Site

_LOG = logging.getLogger("islet.federation")
_VISIT = "simulated"
# The sites of a worker process.
_sites: dict[tuple[str, str], Site] = {}


def simulate(
    job: Job,
    homes: Sequence[Home],
    folder: Path,
    *,
    workers: int | None = None,
    told: Callable[[Round], None] | None = None,
    notes: tuple[str, ...] = (),
) -> Coordinator:
    """Run a job to its end; one that was stopped in the folder goes on.

    Args:
        job: what is trained.
        homes: the sites.
        folder: of the server's state and results.
        workers: processes that train at a time, by default one a core; 0 is this process itself.
        told: called with every round that ended.
        notes: sentences for the report.

    Returns:
        The server's state at the end; its folder holds the results.

    Raises:
        JobFailed: see :func:`federation.conduct.conduct`.
    """
    coordinator = Coordinator(job, folder, notes=notes)
    count = min(len(homes), os.cpu_count() or 1) if workers is None else workers
    with Lanes(job, homes, count) as lanes:
        conduct(coordinator, lanes, told)
    return coordinator


class Lanes:
    """An exchange over worker processes of this machine.

    Args:
        job: what is trained.
        homes: the sites; each stays in one worker.
        workers: how many; 0 handles requests in this process.
    """

    def __init__(self, job: Job, homes: Sequence[Home], workers: int) -> None:
        self._job, self._homes = job, {home.name: home for home in homes}
        # A fork of a process with torch's threads may hang.
        spawn = multiprocessing.get_context("spawn")
        lanes = [ProcessPoolExecutor(1, mp_context=spawn) for _ in range(workers)]
        self._lanes = {
            home.name: lanes[i % workers] if workers else None for i, home in enumerate(homes)
        }
        self._open: dict[str, Future[bytes]] = {}
        self._waiting: deque[tuple[str, bytes]] = deque()

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for lane in {id(lane): lane for lane in self._lanes.values() if lane}.values():
            lane.shutdown(cancel_futures=True)

    def present(self) -> Mapping[str, str]:
        """Every site, always."""
        return dict.fromkeys(self._homes, _VISIT)

    def ask(self, site: str, request: bytes) -> None:
        """Queue a request for its worker."""
        lane = self._lanes[site]
        if lane is None:
            self._waiting.append((site, request))
        else:
            text = self._job.to_json()
            self._open[site] = lane.submit(_handled, text, self._homes[site], request)

    def receive(self, seconds: float) -> Reply | None:
        """The next reply; in this process it is worked on now."""
        if self._waiting:
            site, request = self._waiting.popleft()
            return Reply(site, _VISIT, _handled(self._job.to_json(), self._homes[site], request))
        if not self._open:
            # Nothing can come, and an empty wait is none.
            time.sleep(seconds)
            return None
        done, _ = wait(self._open.values(), seconds, FIRST_COMPLETED)
        for site, future in list(self._open.items()):
            if future in done:
                del self._open[site]
                return Reply(site, _VISIT, _body(site, future))
        return None

    def withdraw(self, site: str) -> None:
        """Forget what a site was asked."""
        future = self._open.pop(site, None)
        if future is not None:
            future.cancel()

    def stopped(self) -> bool:
        """Never; an interrupted simulation is gone on with."""
        return False


def _body(site: str, future: Future[bytes]) -> bytes | None:
    error = future.exception()
    if error is None:
        return future.result()
    _LOG.error("%s failed: %s", site, error)
    return None


def _handled(job: str, home: Home, request: bytes) -> bytes:
    """A request handled by the site, which stays in this process for the next one."""
    key = (job, home.name + str(home.folder))
    if key not in _sites:
        _sites[key] = Site(Job.from_json(job), home)
    return _sites[key].handle(request)
