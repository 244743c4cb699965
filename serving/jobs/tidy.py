"""What somebody must do every few seconds, so that nothing stays lost, held or lying about."""

from __future__ import annotations

import logging

from serving.jobs.parts import Parts
from serving.jobs.queue import QUEUE_ERRORS

logger = logging.getLogger("islet.jobs")

# However short results are kept, there is time to fetch one.
_FETCH_S = 60.0


def tidy(parts: Parts, keep_hours: int) -> None:
    """Do it once; any number of processes may do it at a time.

    Args:
        parts: of the jobs.
        keep_hours: after its end a job is forgotten.
    """
    bury(parts, parts.roll.dead())
    for job in parts.catalogue.uncleared():
        parts.spool.clear(job)
        parts.ledger.clear(job.id)
    for job in parts.catalogue.overdue(max(keep_hours * 3600.0, _FETCH_S)):
        parts.ledger.forget(job.id)
        parts.spool.remove(job.id)
    old = parts.spool.old()
    if old:
        for id in set(old) - parts.catalogue.ids():
            parts.spool.remove(id)
    parts.spool.sweep()


def bury(parts: Parts, workers: list[str]) -> None:
    """Give back what dead workers had, and what any worker was silent over for too long."""
    parts.ledger.lapse(workers)
    for worker in workers:
        logger.info("worker %s is gone", worker)
        parts.roll.strike(worker)
    _call_again(parts)


def _call_again(parts: Parts) -> None:
    """Queue the jobs that wait and are not in the queue.

    One that a worker has just taken out and not claimed yet may come twice; it is claimed once.
    """
    try:
        entries = parts.queue.entries()
        for id, turn in parts.catalogue.queued().items():
            if id not in entries:
                parts.queue.put(id, turn)
    except QUEUE_ERRORS as error:
        logger.warning("the queue cannot be reached: %s", type(error).__name__)
