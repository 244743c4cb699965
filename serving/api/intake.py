"""A request with a CT in its body to a job that is on disk."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from imaging.errors import BadParameter
from serving.api.desk import Desk, desk_of
from serving.guard.identity import identity_of
from serving.jobs.jobs import Jobs
from serving.jobs.record import Job
from serving.options import Options, from_parameters, priority_of
from serving.threads import in_thread
from serving.uploads import Upload, check_length, receive

KEY_HEADER = "Idempotency-Key"
_LONGEST_KEY = 255

Given = dict[str, list[str]]


async def take(request: Request, priority: int | None = None) -> Job:
    """Receive a CT and submit its job, which is durable when this returns.

    What can be refused before the body is read, is: its length, the query's parameters, a full
    queue, a model that is not there or cannot find what is asked for.

    Args:
        request: its body is streamed to disk.
        priority: of a job that is waited for; ``None`` takes the caller's, and its key.

    Raises:
        InputError, BadParameter, ModelError, ServiceBusy, KeyReused: refused.
        DiskFull, DiskReadOnly: it cannot be kept.
        starlette.requests.ClientDisconnect: the client went away.
    """
    desk = desk_of(request)
    # Who waits for an answer has one request only.
    key = key_of(request) if priority is None else None
    check_length(request, desk.settings.limits)
    query = _query(request)
    asked = _checked(query, desk, priority)
    form = parse_options_header(request.headers.get("content-type"))[0] == b"multipart/form-data"
    if not form or "model" in query:
        # A form may still name another model.
        await in_thread(_check_model, desk, asked[0])
    await in_thread(desk.jobs.room)
    async with staged(desk.jobs) as folder:
        upload = await receive(request, folder, desk.settings.limits, desk.uploads)
        given = _merged(query, upload)
        options, urgency = _checked(given, desk, priority)
        await in_thread(_check_model, desk, options)
        return await in_thread(
            desk.jobs.submit,
            "segment",
            options.to_json(),
            identity_of(request).subject,
            folder,
            priority=urgency,
            key=key,
            fingerprint=_fingerprint(upload, given),
        )


def key_of(request: Request) -> str | None:
    """The request's Idempotency-Key.

    Raises:
        BadParameter: it is empty, or longer than 255 characters.
    """
    key = request.headers.get(KEY_HEADER)
    if key is not None and not 0 < len(key) <= _LONGEST_KEY:
        raise BadParameter(
            f"The {KEY_HEADER} has {len(key)} characters; use 1 to {_LONGEST_KEY}.",
            parameter=KEY_HEADER,
        )
    return key


def _checked(given: Given, desk: Desk, priority: int | None) -> tuple[Options, int]:
    if priority is not None and "priority" in given:
        raise BadParameter(
            "priority is for POST /v1/jobs; what waits for its answer goes first anyway.",
            parameter="priority",
        )
    options = from_parameters(given, desk.settings)
    return options, priority_of(given) if priority is None else priority


def _check_model(desk: Desk, options: Options) -> None:
    options.masks_of(desk.store.resolve(options.model).manifest)


def _query(request: Request) -> Given:
    query = request.query_params
    return {name: query.getlist(name) for name in query}


def _merged(query: Given, upload: Upload) -> Given:
    given = {name: list(values) for name, values in query.items()}
    for name, found in upload.parameters.items():
        given[name] = given.get(name, []) + found
    return given


def _fingerprint(upload: Upload, given: Given) -> str:
    """Of what was sent: the files' bytes and the parameters, whatever they were wrapped in."""
    words = json.dumps(given, sort_keys=True).encode()
    return hashlib.sha256(upload.digest + words).hexdigest()


@asynccontextmanager
async def staged(jobs: Jobs) -> AsyncIterator[Path]:
    """``jobs.staged`` beside the event loop: an empty folder to receive an upload.

    Raises:
        DiskFull, DiskReadOnly: it cannot be kept.
    """
    held = jobs.staged()
    folder = await in_thread(held.__enter__)
    try:
        yield folder
    finally:
        # What a request leaves behind goes even where the request itself was cancelled.
        with anyio.CancelScope(shield=True):
            await in_thread(held.__exit__, *sys.exc_info())
