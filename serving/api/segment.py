"""``POST /segment``: a job whose sender waits for it."""

from __future__ import annotations

import asyncio

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from imaging.errors import Cancelled
from serving.api.answers import AWAITED, JSON, MULTIPART, ZIP, preferred, read_member, whole_result
from serving.api.desk import desk_of
from serving.api.endpoint import Endpoint, note
from serving.api.intake import take
from serving.api.operations import (
    CT_PARAMETERS,
    FILES,
    INTAKE_ERRORS,
    SENT,
    WORK_ERRORS,
    ct_body,
)
from serving.api.schemas import errors_for, ref
from serving.guard.identity import Role
from serving.jobs.record import Job
from serving.options import Options
from serving.outputs import REPORT
from serving.threads import in_thread


async def post_segment(request: Request) -> Response:
    """A CT in; its files, or the report alone, out. The job ends with the client."""
    desk = desk_of(request)
    job = await take(request, AWAITED)
    note(request, job=job.id)
    ended = await until_gone(request, job)
    path = await in_thread(desk.jobs.result, ended)
    # What was answered is not kept a second time.
    forget = BackgroundTask(in_thread, desk.jobs.delete, job.id)
    numbers = Options.from_json(job.request).outputs == ("report",)
    if numbers and preferred(request, (JSON, ZIP, *MULTIPART)) == JSON:
        report = await in_thread(read_member, path, REPORT)
        return Response(report, media_type=JSON, background=forget)
    return await whole_result(request, ended, path, forget)


async def until_gone(request: Request, job: Job) -> Job:
    """Wait for a job's end; when the client goes away first, cancel it.

    Raises:
        Cancelled: the client went away.
    """
    desk = desk_of(request)
    ended = asyncio.create_task(desk.watch.ended(job.id))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return ended.result()
        raise Cancelled("The client went away before its job ended.")
    finally:
        finished = ended.done()
        for task in (ended, gone):
            task.cancel()
        if not finished:
            await in_thread(desk.jobs.cancel, job.id)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


ENDPOINTS = (
    Endpoint(
        "POST",
        "/segment",
        post_segment,
        Role.SEGMENT,
        {
            "operationId": "segment",
            "summary": "A CT in; label map, masks and report out",
            "description": f"{SENT} The answer comes when the work is done.",
            "parameters": CT_PARAMETERS,
            "requestBody": ct_body(*CT_PARAMETERS),
            "responses": {
                "200": {
                    "description": "The files; with outputs=report alone, the report.",
                    "content": FILES | {"application/json": {"schema": ref("Report")}},
                },
                **errors_for(*sorted({*INTAKE_ERRORS, *WORK_ERRORS})),
            },
        },
    ),
)
