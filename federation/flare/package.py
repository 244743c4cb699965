"""A job as the folder that NVIDIA FLARE takes: our job in a file, and who runs it. No code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from federation.flare.kits import CONTROLLER, EXECUTOR
from federation.job import Job
from imaging.errors import MessageRefused
from imaging.files import write_whole

APP = "app"
TASK = "islet"
REQUEST, REPLY = "request", "reply"
"""Keys of a task's data and of its result: the bytes of our messages."""
MAX_SITES = "max_sites"
"""Key of the engine's job description that tells its server process how many sites are let in."""
_FILE = "job.json"
# Requests and replies of hundreds of MB over a hospital's line.
_TRANSFER_S = 1800.0
_POLL_S = 0.5


def write_package(job: Job, folder: Path) -> Path:
    """Write the job's folder into ``folder``; its name is one that FLARE takes.

    Our job is a file and no argument of a component: FLARE takes every nested value with a ``name``
    or a ``path`` for a component, and every brace in a text for a variable.
    """
    package = folder / "islet-job"
    config = package / APP / "config"
    _write(package / "meta.json", _meta(job))
    _write(config / "config_fed_server.json", _SERVER)
    _write(config / "config_fed_client.json", _CLIENT)
    write_whole(config / _FILE, job.to_json().encode())
    return package


def read_job(config: Path) -> Job:
    """The job of an app's configuration folder.

    Raises:
        MessageRefused: there is none.
        BadParameter: not a job of this version.
    """
    try:
        return Job.from_json((config / _FILE).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise MessageRefused(f"The job came without its {_FILE}.") from error


def _meta(job: Job) -> dict[str, Any]:
    return {
        "name": job.name,
        "min_clients": job.min_sites,
        "resource_spec": {},
        "deploy_map": {APP: ["@ALL"]},
        MAX_SITES: job.max_sites,
    }


_SERVER: dict[str, Any] = {
    "format_version": 2,
    "server": {"task_request_interval": _POLL_S},
    "workflows": [{"id": TASK, "path": CONTROLLER, "args": {}}],
    "components": [],
    "task_data_filters": [],
    "task_result_filters": [],
}
_CLIENT: dict[str, Any] = {
    "format_version": 2,
    "executors": [{"tasks": [TASK], "executor": {"id": TASK, "path": EXECUTOR, "args": {}}}],
    "components": [],
    "task_data_filters": [],
    "task_result_filters": [],
    "get_task_timeout": _TRANSFER_S,
    "submit_task_result_timeout": _TRANSFER_S,
    # A site's process may be ready long before the server's on a busy machine.
    "max_runner_sync_timeout": 180.0,
}


def _write(path: Path, value: dict[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=2).encode())
