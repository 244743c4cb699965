"""What ``/metrics`` shows.

BentoML's own numbers are off: their labels are the raw paths of requests, which may name a study.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.jobs.jobs import Jobs
from serving.jobs.record import Job, State
from serving.threads import in_thread

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# Seconds; a step takes milliseconds to minutes, a job that waits may take hours.
_STEP_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_JOB_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)


class Metrics:
    """Requests by outcome, and what the jobs that ended took.

    Made once a process, after BentoML has set up its environment: prometheus_client looks there
    when first imported.

    Args:
        registry: where they are registered; ``None`` takes the process's own.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import REGISTRY, Counter, Histogram

        registry = self.registry = registry or REGISTRY
        self._requests = Counter(
            "islet_requests_total",
            "Requests by endpoint and outcome: ok, or the error's code.",
            ["endpoint", "outcome"],
            registry=registry,
        )
        self._steps = Histogram(
            "islet_step_seconds",
            "Seconds by step of a segmentation.",
            ["step", "model"],
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self._waits = Histogram(
            "islet_queue_wait_seconds",
            "Seconds from a job's arrival to its last attempt's start.",
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self._jobs = Histogram(
            "islet_job_seconds",
            "Seconds from a job's last attempt's start to its end, by how it ended.",
            ["kind", "state"],
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "islet_failures_total",
            "Jobs that failed, by the error's code.",
            ["code"],
            registry=registry,
        )

    def outcome(self, endpoint: str, outcome: str) -> None:
        """Count one request."""
        self._requests.labels(endpoint, outcome).inc()

    def ended(self, job: Job) -> None:
        """Record one job that ended."""
        if job.started is not None and job.ended is not None:
            self._waits.observe(max(0.0, job.started - job.created))
            self._jobs.labels(job.kind, job.state.value).observe(max(0.0, job.ended - job.started))
        if job.state is State.FAILED and job.error:
            self._failures.labels(job.error["code"]).inc()
        report = (job.result or {}).get("report") or {}
        model = (report.get("model") or {}).get("reference", "")
        for step, seconds in (report.get("seconds") or {}).items():
            if step != "total":
                self._steps.labels(step, model).observe(seconds)


class Now:
    """What there is at the moment of a scrape: jobs by state, workers, their memory.

    Args:
        jobs: asked at each scrape.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Any]:
        """The gauges, as prometheus_client asks a collector for them."""
        from prometheus_client.core import GaugeMetricFamily

        states = GaugeMetricFamily("islet_jobs", "Jobs on record, by state.", labels=["state"])
        counts = self._jobs.counts()
        for state in State:
            states.add_metric([state.value], counts.get(state, 0))
        yield states
        found = self._jobs.workers()
        ready = sum(bool(worker["ready"]) for worker in found)
        workers = GaugeMetricFamily(
            "islet_workers",
            "Live workers, by whether the default model is loaded.",
            labels=["ready"],
        )
        workers.add_metric(["true"], ready)
        workers.add_metric(["false"], len(found) - ready)
        yield workers
        memory = GaugeMetricFamily(
            "islet_worker_memory_bytes",
            "Resident memory of the workers together, by host.",
            labels=["host"],
        )
        hosts: dict[str, float] = {}
        for worker in found:
            hosts[worker["host"]] = hosts.get(worker["host"], 0.0) + worker["memory_mb"] * 2**20
        for host, size in hosts.items():
            memory.add_metric([host], size)
        yield memory


def exposition(metrics: Metrics, jobs: Jobs) -> Route:
    """What answers ``GET /metrics``."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    metrics.registry.register(Now(jobs))

    async def get_metrics(_: Request) -> Response:
        shown = await in_thread(generate_latest, metrics.registry)
        return Response(shown, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Route("/metrics", get_metrics, methods=["GET"])
