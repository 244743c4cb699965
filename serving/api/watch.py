"""Who waits for jobs, and the one task that looks whether they ended."""

from __future__ import annotations

import asyncio

from serving.jobs.jobs import Jobs
from serving.jobs.record import ENDED, Job
from serving.metrics import Metrics
from serving.threads import in_thread

# While somebody waits. A look costs one small query, whoever many wait.
_LOOK_S = 0.02
# A job whose end nobody could see, such as one that was deleted, is asked for itself.
_ASK_S = 5.0


class Watch:
    """Sees every job end once: wakes who waits for it and tells the metrics.

    Jobs that ended before it was made are not told.

    Args:
        jobs: asked for what ended.
        metrics: told of every job that ended.
    """

    def __init__(self, jobs: Jobs, metrics: Metrics) -> None:
        self._jobs = jobs
        self._metrics = metrics
        self._mark = jobs.ended_since(None)[1]
        self._waiting: dict[str, list[asyncio.Future[Job]]] = {}
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """See what ended since the last look."""
        async with self._looking:
            ended, self._mark = await in_thread(self._jobs.ended_since, self._mark)
        for job in ended:
            self._metrics.ended(job)
            for waiter in self._waiting.get(job.id, ()):
                if not waiter.done():
                    waiter.set_result(job)

    async def ended(self, job_id: str) -> Job:
        """Wait for a job's end.

        Raises:
            JobNotFound: it was deleted.
        """
        waiter: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(waiter)
        try:
            await self.look()
            while not waiter.done():
                # It may have ended before it was waited for.
                job = await in_thread(self._jobs.get, job_id)
                if job.state in ENDED:
                    await self.look()
                    return job
                if self._task is None or self._task.done():
                    self._task = asyncio.create_task(self._keep_looking())
                await asyncio.wait((waiter,), timeout=_ASK_S)
            return waiter.result()
        finally:
            self._waiting[job_id].remove(waiter)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _keep_looking(self) -> None:
        while self._waiting:
            await self.look()
            await asyncio.sleep(_LOOK_S)
