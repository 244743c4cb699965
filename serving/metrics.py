"""Counters beside BentoML's own, shown by its ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# Seconds; a step takes milliseconds to minutes.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Requests by outcome and seconds by step.

    Made once a process, after BentoML has set up the folder through which its workers add up:
    prometheus_client looks for it when first imported.

    Args:
        registry: where they are registered; ``None`` takes the process's own.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import REGISTRY, Counter, Histogram

        registry = registry or REGISTRY
        self._requests = Counter(
            "islet_requests_total",
            "Requests by endpoint and outcome: ok, or the error's code.",
            ["endpoint", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "islet_step_seconds",
            "Seconds by step of a segmentation.",
            ["step"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def outcome(self, endpoint: str, outcome: str) -> None:
        """Count one request."""
        self._requests.labels(endpoint, outcome).inc()

    def steps(self, seconds: Mapping[str, float]) -> None:
        """Record one segmentation's seconds."""
        for step, value in seconds.items():
            self._seconds.labels(step).observe(value)
