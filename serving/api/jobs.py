"""``/jobs``: work that is asked for now and fetched later."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from imaging.errors import BadParameter, JobNotFound
from serving.api.answers import accepted, base_of, job_body, one_file, show, whole_result
from serving.api.desk import desk_of
from serving.api.endpoint import Endpoint, note, owner_seen
from serving.api.intake import take
from serving.api.operations import (
    ACCEPTED,
    CT_PARAMETERS,
    FILES,
    INTAKE_ERRORS,
    JOB_ID,
    KEY,
    PRIORITY,
    RESULT_ERRORS,
    SENT,
    ct_body,
    job_answer,
)
from serving.api.schemas import (
    BINARY,
    WORD,
    errors_for,
    json_answer,
    object_of,
    parameter,
    ref,
)
from serving.guard.identity import Role
from serving.jobs.record import ENDED, Job, State
from serving.threads import in_thread

_ID = re.compile("[0-9a-f]{32}")
_MOST_LISTED = 1000
_LISTED = 100
# How often a stream looks at its job, and how often it says that it lives.
_LOOK_S = 0.25
_ALIVE_S = 15.0


async def post_job(request: Request) -> Response:
    """Take a CT and answer at once."""
    return await accepted(request, await take(request))


async def list_jobs(request: Request) -> Response:
    """The caller's jobs, the newest first."""
    state, limit = _filters(request)
    jobs = desk_of(request).jobs
    base = base_of(request)

    def listed() -> list[dict[str, Any]]:
        found = jobs.list(owner_seen(request), state, limit)
        return [job_body(jobs, job, base) for job in found]

    return JSONResponse({"jobs": await in_thread(listed)})


async def get_job(request: Request) -> Response:
    """How far a job is."""
    return JSONResponse(await show(request, await _job(request)))


async def delete_job(request: Request) -> Response:
    """Cancel a job that has not ended; forget one that has, with its files."""
    jobs = desk_of(request).jobs
    job = await _job(request)
    if job.state in ENDED:
        await in_thread(jobs.delete, job.id)
        return Response(status_code=204)
    return JSONResponse(await show(request, await in_thread(jobs.cancel, job.id)), 202)


async def get_result(request: Request) -> Response:
    """Every file of a job's result."""
    job = await _job(request)
    return await whole_result(request, job, await in_thread(desk_of(request).jobs.result, job))


async def get_file(request: Request) -> Response:
    """One file of a job's result."""
    job = await _job(request)
    path = await in_thread(desk_of(request).jobs.result, job)
    return await one_file(request, job, path, request.path_params["name"])


async def get_events(request: Request) -> Response:
    """A job's way to its end, as server-sent events."""
    job = await _job(request)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(request, job), 200, headers, "text/event-stream")


async def _job(request: Request) -> Job:
    """The job that the path names, if the caller may see it."""
    number = request.path_params["id"]
    if not _ID.fullmatch(number):
        raise JobNotFound("The path holds no id of a job; ids are 32 hexadecimal digits.")
    note(request, job=number)
    return await in_thread(desk_of(request).jobs.get, number, owner_seen(request))


def _filters(request: Request) -> tuple[State | None, int]:
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in ("state", "limit") or name in given:
            raise BadParameter(
                f"There is no parameter {name[:64]!r}, or it is given twice; give state and limit "
                "once.",
                parameter=name[:64],
            )
        given[name] = value
    state, limit = given.get("state"), given.get("limit", str(_LISTED))
    if state is not None and state not in set(State):
        raise BadParameter(
            f"There is no state {state[:64]!r}; use one of {', '.join(State)}.", parameter="state"
        )
    # Long enough for every number in the range; more digits are not worth parsing.
    if not re.fullmatch("[0-9]{1,9}", limit) or not 1 <= int(limit) <= _MOST_LISTED:
        raise BadParameter(
            f"limit is {limit[:64]!r}; use a whole number from 1 to {_MOST_LISTED}.",
            parameter="limit",
        )
    return State(state) if state else None, int(limit)


async def _events(request: Request, job: Job) -> AsyncIterator[bytes]:
    """``progress`` whenever something changed, then ``end``; comments meanwhile."""
    number, last, spoke = 0, "", 0.0
    while True:
        told = json.dumps(await show(request, job))
        if told != last:
            number, last, spoke = number + 1, told, time.monotonic()
            yield _event("progress", number, told)
        if job.state in ENDED:
            yield _event("end", number + 1, told)
            return
        if time.monotonic() - spoke > _ALIVE_S:
            spoke = time.monotonic()
            yield b": waiting\n\n"
        await asyncio.sleep(_LOOK_S)
        try:
            job = await in_thread(desk_of(request).jobs.get, job.id)
        except JobNotFound as error:
            # The answer has begun; its status cannot say it any more.
            yield _event("end", number + 1, json.dumps({"error": error.as_dict()}))
            return


def _event(name: str, number: int, data: str) -> bytes:
    return f"event: {name}\nid: {number}\ndata: {data}\n\n".encode()


_EVENT = object_of({"event": {"enum": ["progress", "end"]}, "id": WORD, "data": WORD})

ENDPOINTS = (
    Endpoint(
        "POST",
        "/jobs",
        post_job,
        Role.SEGMENT,
        {
            "operationId": "submit",
            "summary": "A CT in; a job out, at once",
            "description": f"{SENT} What the work itself meets is the job's error.",
            "parameters": [*CT_PARAMETERS, PRIORITY, KEY],
            "requestBody": ct_body(*CT_PARAMETERS, PRIORITY),
            "responses": {"202": ACCEPTED, **errors_for(*sorted({*INTAKE_ERRORS, 409}))},
        },
    ),
    Endpoint(
        "GET",
        "/jobs",
        list_jobs,
        Role.READ,
        {
            "operationId": "jobs",
            "summary": "The caller's jobs, the newest first; an admin sees everybody's",
            "parameters": [
                parameter(
                    "state",
                    "query",
                    {"type": "string", "enum": [state.value for state in State]},
                    "Only jobs in this state.",
                ),
                parameter(
                    "limit",
                    "query",
                    {"type": "integer", "minimum": 1, "maximum": _MOST_LISTED, "default": _LISTED},
                    "As many at most.",
                ),
            ],
            "responses": {"200": json_answer("Jobs.", ref("Jobs")), **errors_for(400)},
        },
    ),
    Endpoint(
        "GET",
        "/jobs/{id}",
        get_job,
        Role.READ,
        {
            "operationId": "job",
            "summary": "How far a job is",
            "parameters": [JOB_ID],
            "responses": {"200": job_answer("The job."), **errors_for(404)},
        },
    ),
    Endpoint(
        "DELETE",
        "/jobs/{id}",
        delete_job,
        Role.SEGMENT,
        {
            "operationId": "cancel",
            "summary": "Cancel a job; one that has ended is forgotten with its files",
            "parameters": [JOB_ID],
            "responses": {
                "202": job_answer("It is cancelled, or its work stops within seconds."),
                "204": {"description": "It had ended, and is forgotten."},
                **errors_for(404),
            },
        },
    ),
    Endpoint(
        "GET",
        "/jobs/{id}/result",
        get_result,
        Role.READ,
        {
            "operationId": "result",
            "summary": "Every file of a job's result",
            "parameters": [JOB_ID],
            "responses": {
                "200": {"description": "The files.", "content": FILES},
                **errors_for(*RESULT_ERRORS),
            },
        },
    ),
    Endpoint(
        "GET",
        "/jobs/{id}/result/{name}",
        get_file,
        Role.READ,
        {
            "operationId": "file",
            "summary": "One file of a job's result",
            "parameters": [JOB_ID, parameter("name", "path", WORD, "As the job lists it.")],
            "responses": {
                "200": {"description": "The file.", "content": {"*/*": {"schema": BINARY}}},
                "304": {"description": "The caller has it: its ETag is in If-None-Match."},
                **errors_for(*RESULT_ERRORS),
            },
        },
    ),
    Endpoint(
        "GET",
        "/jobs/{id}/events",
        get_events,
        Role.READ,
        {
            "operationId": "events",
            "summary": "A job's way to its end, as server-sent events",
            "description": (
                "`progress` whenever something changed, its data the job; last `end` with the job "
                "as it ended. Comments in between keep the connection."
            ),
            "parameters": [JOB_ID],
            "responses": {
                "200": {
                    "description": "Events.",
                    "content": {"text/event-stream": {"schema": _EVENT}},
                },
                **errors_for(404),
            },
        },
    ),
)
