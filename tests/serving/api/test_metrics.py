"""What is counted, and that the dashboard asks for nothing else."""

from __future__ import annotations

import asyncio
import json
import re
from importlib import resources
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import Now
from tests.serving.api.house import Service

DOCS = Path(__file__).parents[3] / "docs" / "api.md"


def test_requests_jobs_steps_and_failures_are_counted(service: Service, ct: Path) -> None:
    service.client.post("/v1/segment", content=ct.read_bytes())
    service.client.post("/v1/segment", content=b"this is no image")
    service.client.post("/v1/segment", content=b"")
    service.client.get("/v1/nothing")
    shown = generate_latest(service.registry).decode()
    for line in (
        'islet_requests_total{endpoint="segment",outcome="ok"} 1.0',
        'islet_requests_total{endpoint="segment",outcome="empty_input"} 1.0',
        'islet_requests_total{endpoint="segment",outcome="unsupported_format"} 1.0',
        'islet_requests_total{endpoint="other",outcome="not_found"} 1.0',
        'islet_step_seconds_count{model="starter@1",step="network"} 1.0',
        'islet_job_seconds_count{kind="segment",state="done"} 1.0',
        'islet_job_seconds_count{kind="segment",state="failed"} 1.0',
        'islet_failures_total{code="unsupported_format"} 1.0',
        "islet_queue_wait_seconds_count 2.0",
    ):
        assert line in shown


def test_a_job_counts_once_whoever_looks(service: Service, ct: Path) -> None:
    service.client.post("/v1/segment", content=ct.read_bytes())
    asyncio.run(service.door.desk.watch.look())
    assert "islet_queue_wait_seconds_count 1.0" in generate_latest(service.registry).decode()


def gauges(service: Service) -> str:
    registry = CollectorRegistry()
    registry.register(Now(service.jobs))
    return generate_latest(registry).decode()


def test_gauges_tell_of_the_moment(service: Service, idle: Service, ct: Path) -> None:
    idle.client.post("/v1/jobs", content=ct.read_bytes())
    waiting = gauges(idle)
    assert 'islet_jobs{state="queued"} 1.0' in waiting
    assert 'islet_jobs{state="running"} 0.0' in waiting
    assert 'islet_workers{ready="true"} 0.0' in waiting
    manned = gauges(service)
    assert 'islet_workers{ready="true"} 1.0' in manned
    (memory,) = re.findall(r"islet_worker_memory_bytes{.*} (\S+)", manned)
    assert float(memory) > 2**20


def shown_by(service: Service) -> set[str]:
    """Names of every sample of the service's own metrics."""
    text = generate_latest(service.registry).decode() + gauges(service)
    families = text_string_to_metric_families(text)
    names = {sample.name for family in families for sample in family.samples}
    return {name for name in names if not name.endswith("_created")}


def test_the_dashboard_and_the_documentation_name_what_there_is(service: Service, ct: Path) -> None:
    service.client.post("/v1/segment", content=ct.read_bytes())
    service.client.post("/v1/segment", content=b"this is no image")
    there = shown_by(service)
    board = json.loads((resources.files("serving") / "grafana" / "islet.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = {name for expression in asked for name in re.findall(r"islet_\w+", expression)}
    assert named <= there
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in there}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} == families
    written = set(re.findall(r"`(islet_[a-z_]+)", DOCS.read_text()))
    assert written == families
