"""What ``islet work`` does."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from dataclasses import replace

from imaging.errors import BadParameter, IsletError
from serving.settings import Settings

logger = logging.getLogger("islet.jobs")

_TIDY_S = 5.0


def work(args: argparse.Namespace) -> int:
    """Run workers on this host until stopped; the service runs on another.

    Args:
        args: ``workers`` (processes; ``None`` takes ``ISLET_WORKERS``).

    Raises:
        BadParameter: no database that hosts can share, or no workers.
    """
    from serving.jobs.jobs import Jobs
    from serving.workers.crew import Crew

    settings = Settings.from_environment()
    settings = replace(settings, workers=settings.workers if args.workers is None else args.workers)
    if settings.database is None:
        raise BadParameter(
            "Workers of a further host need a database that hosts share; set ISLET_DATABASE to "
            "the service's, and ISLET_SPOOL to its spool.",
            variable="ISLET_DATABASE",
        )
    if settings.workers < 1:
        raise BadParameter(
            f"{settings.workers} workers do no work; ask for 1 or more.", workers=settings.workers
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stopped = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: stopped.set())
    jobs, crew = Jobs(settings), Crew(settings)
    crew.start()
    print(f"{settings.workers} workers take jobs; Ctrl-C stops them.")
    try:
        while not stopped.wait(_TIDY_S):
            try:
                jobs.tidy()
            except IsletError as error:
                logger.warning("tidying failed: %s", error.code)
    finally:
        crew.stop()
        jobs.close()
    return 0
