"""A worker's hold on one job: the lease, what callers see of its progress, and when to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from imaging.errors import Cancelled, DiskFull, DiskReadOnly, IsletError, RecordsAway, TimedOut
from serving.jobs.failures import recorded
from serving.jobs.ledger import LEASE_S, Claim, Ledger

Wrote = TypeVar("Wrote")

logger = logging.getLogger("islet.jobs")

# How often it looks, and so how often progress is written down at most.
TICK_S = 0.25
# Work that was told to stop may take that long until the process is ended.
GRACE_S = 2.0
_RENEW_S = LEASE_S / 3
# A result is kept for publishing that long while the records cannot be reached.
_INSIST_S = 60.0


class Verdict(Enum):
    """Why work must stop."""

    CANCELLED = "cancelled"
    OVERDUE = "overdue"
    LEAVING = "leaving"
    LOST = "lost"


@dataclass
class Hold:
    """One job in a worker's hands.

    The thread that works calls :meth:`progress`, and :meth:`close` at last; another calls
    :meth:`tick`.

    Attributes:
        claim: the job.
        ledger: its records.
        limit_s: it may take that long.
        leaving: set when the process is to end.
        halt: breaks off what runs inside libraries, as far as they can be.
        verdict: why it must stop, once it must.
    """

    claim: Claim
    ledger: Ledger
    limit_s: float
    leaving: threading.Event
    halt: Callable[[], object]
    verdict: Verdict | None = None
    _at: tuple[str | None, float] = (None, 0.0)
    _written: tuple[str | None, float] = (None, 0.0)
    _began: float = field(default_factory=time.monotonic)
    _renewed: float = field(default_factory=time.monotonic)
    _judged: float = 0.0
    _over: bool = False
    _halting: threading.Lock = field(default_factory=threading.Lock)

    def progress(self, step: str, part: float) -> None:
        """Note how far the work is.

        Raises:
            IsletError: it must stop.
        """
        self._at = step, part
        if self.verdict is not None:
            raise self.reason()

    def tick(self) -> bool:
        """Look for a reason to stop, tell the work, keep the lease.

        Returns:
            Whether the work does not stop though it was told to.
        """
        if self.verdict is None:
            self.verdict = self._judge()
            self._judged = time.monotonic()
        if self.verdict is None:
            return False
        with self._halting:
            # What runs now may be the next job's.
            if self._over:
                return False
            self.halt()
        return time.monotonic() - self._judged > GRACE_S

    def close(self) -> None:
        """The work is over: nothing is broken off any more once this returns."""
        with self._halting:
            self._over = True

    def reason(self) -> IsletError:
        """The verdict as an error."""
        id = self.claim.job.id
        if self.verdict is Verdict.OVERDUE:
            return TimedOut(
                f"The job took longer than {self.limit_s:g} s; ask for less, use a quicker model "
                "or raise ISLET_JOB_SECONDS.",
                limit_s=self.limit_s,
            )
        return Cancelled(f"Job {id} was stopped.")

    def end(self, error: BaseException) -> None:
        """Write down how the job ended without a result, as far as it is the worker's to say."""
        if self.verdict is Verdict.LOST:
            return
        if self.verdict is Verdict.LEAVING:
            insist(lambda: self.ledger.give_back(self.claim))
            return
        found = recorded(error if self.verdict is None else self.reason())
        insist(lambda: self.ledger.fail(self.claim, found))

    def _judge(self) -> Verdict | None:
        now = time.monotonic()
        if self.leaving.is_set():
            return Verdict.LEAVING
        if now - self._began > self.limit_s:
            return Verdict.OVERDUE
        try:
            told = self._ask(now)
        except IsletError as error:
            # Others may reach the records and give the job to somebody else.
            logger.warning("the records do not answer: %s", error.code)
            return Verdict.LOST if now - self._renewed > LEASE_S else None
        if told is None:
            return Verdict.LOST
        return Verdict.CANCELLED if told else None

    def _ask(self, now: float) -> bool | None:
        at = self._at
        if at == self._written and now - self._renewed < _RENEW_S:
            return self.ledger.look(self.claim)
        told = self.ledger.beat(self.claim, *at)
        self._written, self._renewed = at, now
        return told


def insist(write: Callable[[], Wrote]) -> Wrote:
    """Write to the records, again and again for a minute while they cannot be reached.

    Raises:
        RecordsAway, DiskFull, DiskReadOnly: it was in vain.
    """
    deadline = time.monotonic() + _INSIST_S
    while True:
        try:
            return write()
        except (RecordsAway, DiskFull, DiskReadOnly):
            if time.monotonic() > deadline:
                raise
            time.sleep(2 * TICK_S)
