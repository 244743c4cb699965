"""One worker process: takes jobs, one at a time, until its parent is gone.

``serving.workers.crew.Crew`` starts it as ``python -m serving.workers.worker`` and writes an id and
the ``Settings`` to its standard input, a line each. That stays open as long as the parent lives.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from imaging.errors import BadParameter, Cancelled, IsletError
from imaging.limits import MIB
from imaging.threads import usable_cores
from models.store import Store, default_store
from serving.engines import Engines
from serving.jobs.ledger import Claim
from serving.jobs.parts import Parts
from serving.jobs.queue import QUEUE_ERRORS
from serving.jobs.record import ENDED
from serving.jobs.roll import CALL_S, Status
from serving.jobs.task import Perform, Task
from serving.settings import Settings
from serving.workers.hold import TICK_S, Hold, insist
from serving.workers.work import KINDS, pack

logger = logging.getLogger("islet.jobs")

_WAIT_S = 0.5
_TEND_S = 5.0
_STUCK = 75
# A thread begins within so long after it was started, or never.
_BEGIN_S = 20.0


class Unbegun:
    """Looks for threads that were started and do not begin.

    One that finds no memory to begin with dies without a word, and whoever started it waits for it
    without an end.
    """

    def __init__(self) -> None:
        self._since: dict[threading.Thread, float] = {}

    def look(self, now: float) -> bool:
        """Whether there is one.

        Args:
            now: seconds, of a clock that does not jump.
        """
        waited_for = [thread for thread in threading.enumerate() if thread.ident is None]
        self._since = {thread: self._since.get(thread, now) for thread in waited_for}
        return any(now - since > _BEGIN_S for since in self._since.values())


class Worker:
    """Takes jobs from the queue and does them.

    Args:
        id: of its row and of what it claims.
        settings: of the service.
        store: of the models.
    """

    def __init__(self, id: str, settings: Settings, store: Store) -> None:
        self._id = id
        self._settings = settings
        self._parts = Parts.open(settings)
        threads = settings.threads or max(1, usable_cores() // max(1, settings.workers))
        memory_mb, idle_s = settings.model_memory_mb, settings.model_idle_s
        self._engines = Engines(store, threads, memory_mb, idle_s, runtime=settings.runtime)
        self._status = Status()
        self._hold: Hold | None = None
        self._tended = -_TEND_S
        self._called = -CALL_S
        self._unbegun = Unbegun()
        self.leaving = threading.Event()

    def run(self) -> None:
        """Work until ``leaving`` is set, and let go of everything."""
        over = threading.Event()
        pulse = threading.Thread(target=self._pulse, args=(over,), name="pulse", daemon=True)
        pulse.start()
        while not self.leaving.is_set():
            self._tend()
            claim = self._next()
            if claim is not None:
                self._work(claim)
        over.set()
        pulse.join()
        with suppress(IsletError):
            self._parts.roll.strike(self._id)
        self._parts.close()

    def _next(self) -> Claim | None:
        """Take a job, if one comes soon."""
        try:
            id = self._parts.queue.take(_WAIT_S)
            # What is not claimed stays a job that waits; somebody queues it again.
            if id is None or self.leaving.is_set():
                return None
            return self._parts.ledger.claim(id, self._id)
        except (IsletError, *QUEUE_ERRORS) as error:
            logger.warning("no job can be taken: %s", type(error).__name__)
            time.sleep(_WAIT_S)
            return None

    def _work(self, claim: Claim) -> None:
        """Do a job and end it."""
        limit_s = self._settings.job_seconds
        hold = Hold(claim, self._parts.ledger, limit_s, self.leaving, self._engines.stop)
        self._hold = hold
        try:
            self._perform(claim, hold)
        except Exception as error:  # noqa: BLE001 - an edge: a job must not end its worker
            self._end(hold, error)
        finally:
            hold.close()
            self._hold = None
        self._clear(claim)

    def _perform(self, claim: Claim, hold: Hold) -> None:
        job, spool = claim.job, self._parts.spool
        task = Task(job, spool.attempt(job), self._settings, self._engines, hold.progress)
        result = pack(_perform_of(job.kind)(task), spool.result(job))
        spool.keep_result(job)
        if not insist(lambda: self._parts.ledger.finish(claim, result)):
            raise Cancelled("The job was cancelled, or given to another worker.")

    def _end(self, hold: Hold, error: Exception) -> None:
        """End a job that gave nothing."""
        try:
            # Room first: the records may need it.
            self._parts.spool.drop(hold.claim.job)
            hold.end(error)
        except IsletError as away:
            logger.error("the end of a job was not written: %s", away.code)

    def _clear(self, claim: Claim) -> None:
        """Remove what a job needs no more once it ended; what is missed here, others tidy."""
        with suppress(IsletError):
            job = self._parts.catalogue.find(claim.job.id)
            if job is not None and job.state in ENDED:
                self._parts.spool.clear(job)
                self._parts.ledger.clear(job.id)

    def _tend(self) -> None:
        """Every few seconds: load the default model, unload idle ones."""
        now = time.monotonic()
        if now - self._tended < _TEND_S:
            return
        self._tended = now
        error = None
        try:
            self._engines.warm(self._settings.model, self._settings.device)
        except IsletError as wrong:
            error = wrong.as_dict()
            if error != self._status.error:
                logger.error("not ready: %s: %s", wrong.code, wrong.message)
        self._engines.tidy()
        self._say(Status(ready=error is None, error=error))

    def _say(self, status: Status) -> None:
        models, memory = tuple(self._engines.loaded()), _memory_mb()
        self._status = replace(status, models=models, memory_mb=memory)
        try:
            self._parts.roll.call(self._id, self._status)
        except IsletError as error:
            logger.warning("the records do not answer: %s", error.code)

    def _pulse(self, over: threading.Event) -> None:
        """Keep the lease and the worker's row, and end the process when its work does not stop."""
        while not over.wait(TICK_S):
            try:
                self._beat()
            except Exception as error:  # noqa: BLE001 - without a pulse all is lost
                logger.error("the pulse failed: %s", type(error).__name__)

    def _beat(self) -> None:
        hold = self._hold
        if hold is not None and hold.tick():
            logger.error("the work does not stop; the process ends")
            self._end(hold, hold.reason())
            os._exit(_STUCK)
        now = time.monotonic()
        if self._unbegun.look(now):
            logger.error("a thread does not begin; the process ends, its job begins again")
            os._exit(_STUCK)
        if now - self._called >= CALL_S:
            self._called = now
            self._say(self._status)


def main() -> int:
    """Work as the parent says until it is gone, or until told to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    id, settings = (sys.stdin.readline() for _ in range(2))
    worker = Worker(id.rstrip(), Settings.from_json(settings), default_store())
    # A terminal's Ctrl-C comes to all of its processes; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: worker.leaving.set())
    threading.Thread(target=_outlive, args=(worker.leaving,), name="lifeline", daemon=True).start()
    worker.run()
    return 0


def _outlive(leaving: threading.Event) -> None:
    """Wait for the end of standard input: the parent closed it, or died, however it did."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    leaving.set()


def _perform_of(kind: str) -> Perform:
    if kind not in KINDS:
        raise BadParameter(
            f"This worker knows no job of kind {kind!r}; it knows {', '.join(KINDS)}.", kind=kind
        )
    return KINDS[kind]


def _memory_mb() -> float:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MIB, 1)


if __name__ == "__main__":
    sys.exit(main())
