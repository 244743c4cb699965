"""What the endpoints share."""

from __future__ import annotations

from starlette.requests import Request

from models.store import Store
from serving.api.watch import Watch
from serving.firstcome import FirstCome
from serving.jobs.jobs import Jobs
from serving.metrics import Metrics
from serving.settings import Settings

# Uploads that are written to disk at a time: one goes on while the other waits for its next piece.
_WRITING = 2


class Desk:
    """What the endpoints share in the one process that answers.

    Args:
        settings: limits and defaults.
        store: of the models.
        metrics: counters; one set a process.
        jobs: the records, the queue and the results.

    Attributes:
        watch: whom to ask for a job's end.
        uploads: the line that they wait in.
    """

    def __init__(self, settings: Settings, store: Store, metrics: Metrics, jobs: Jobs) -> None:
        self.settings = settings
        self.store = store
        self.metrics = metrics
        self.jobs = jobs
        self.watch = Watch(jobs, metrics)
        self.uploads = FirstCome(_WRITING)


def desk_of(request: Request) -> Desk:
    """The desk of the application that answers a request."""
    desk: Desk = request.app.state.desk
    return desk
