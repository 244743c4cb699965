"""``/dicomweb``: studies that Islet fetches from an archive, and results that it stores there."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imaging.errors import BadParameter
from serving.api.answers import accepted
from serving.api.desk import Desk, desk_of
from serving.api.endpoint import Endpoint, json_object
from serving.api.intake import key_of
from serving.api.operations import ACCEPTED, CT_PARAMETERS, KEY, PRIORITY
from serving.api.schemas import WORD, WORDS, errors_for, json_answer, object_of
from serving.guard.identity import Role, identity_of
from serving.jobs.record import Job
from serving.options import from_parameters, priority_of
from serving.pacs.config import DICOM_OUTPUTS, load
from serving.pacs.uids import check_uid
from serving.threads import in_thread

_OPTIONS = ("model", "structures", "outputs", "device", "doubtful", "priority")
FIELDS = ("server", "study", "series", "rules", "store", *_OPTIONS)


async def post_dicomweb(request: Request) -> Response:
    """Have a study of an archive segmented; answer at once."""
    key = key_of(request)
    given = await json_object(request, FIELDS)
    return await accepted(request, await in_thread(_submit, request, given, key))


async def get_servers(request: Request) -> Response:
    """Names of the archives that may be asked."""
    pacs = await in_thread(load, desk_of(request).settings.pacs)
    return JSONResponse({"servers": sorted(pacs.servers)})


def _submit(request: Request, given: dict[str, Any], key: str | None) -> Job:
    desk = desk_of(request)
    asked, priority = _asked(given, desk)
    fingerprint = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    owner = identity_of(request).subject
    return desk.jobs.submit("dicomweb", asked, owner, None, priority, key, fingerprint)


def _asked(given: dict[str, Any], desk: Desk) -> tuple[dict[str, Any], int]:
    """The job's request, checked as far as it can be without the archive; and its priority."""
    pacs = load(desk.settings.pacs)
    server = pacs.server(_word(given, "server")).name
    store = given.get("store", False)
    if not isinstance(store, bool):
        store = pacs.server(_word(given, "store")).name
    series = check_uid("series", _word(given, "series")) if "series" in given else None
    rules = given.get("rules", series is None)
    if not isinstance(rules, bool) or not (rules or series):
        raise BadParameter(
            "rules must be true or false, and false only where a series is named.",
            parameter="rules",
        )
    words = {name: _words(given, name) for name in _OPTIONS if name in given}
    words["outputs"] = words.get("outputs") or list(DICOM_OUTPUTS)
    options = from_parameters(words, desk.settings)
    if store and not options.dicom:
        raise BadParameter(
            f"store needs a DICOM output; ask for some of {', '.join(DICOM_OUTPUTS)}.",
            parameter="outputs",
        )
    options.masks_of(desk.store.resolve(options.model).manifest)
    asked = {
        "model": options.model,
        "server": server,
        "study": check_uid("study", _word(given, "study")),
        "series": series,
        "rules": rules,
        "store": server if store is True else store or None,
        "options": options.to_json(),
    }
    return asked, priority_of(words)


def _word(given: dict[str, Any], name: str) -> str:
    value: Any = given.get(name)
    if not _is_text(value):
        raise BadParameter(f"{name} must be a text.", parameter=name)
    return str(value)


def _words(given: dict[str, Any], name: str) -> list[str]:
    value = given[name]
    values = value if isinstance(value, list) else [value]
    if not all(map(_is_text, values)):
        raise BadParameter(f"{name} must be a text or a list of texts.", parameter=name)
    return values


def _is_text(value: object) -> bool:
    # What does not print, halves of surrogate pairs for one, could not be quoted in an answer.
    return isinstance(value, str) and value.isprintable()


_UID = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)*$", "maxLength": 64}
_SCHEMAS = {one["name"]: one["schema"] for one in (*CT_PARAMETERS, PRIORITY)}
_BODY = object_of(
    {
        "server": WORD | {"description": "Name of a configured server."},
        "study": _UID | {"description": "StudyInstanceUID."},
    }
)
_BODY["properties"] |= {
    "series": _UID | {"description": "SeriesInstanceUID; the rules choose where there is none."},
    "rules": {"type": "boolean", "description": "Whether a named series must pass them too."},
    "store": {
        "anyOf": [{"type": "boolean"}, WORD],
        "default": False,
        "description": "Whether to store the DICOM outputs there, or the name of another server.",
    },
} | {name: _SCHEMAS[name] for name in _OPTIONS}
_BODY["additionalProperties"] = False

ENDPOINTS = (
    Endpoint(
        "POST",
        "/dicomweb",
        post_dicomweb,
        Role.SEGMENT,
        {
            "operationId": "dicomweb",
            "summary": "Have a study of an archive segmented; a job out, at once",
            "description": (
                "Islet fetches one series by WADO-RS and, where `store` says so, stores the DICOM "
                f"outputs by STOW-RS. By default the outputs are {', '.join(DICOM_OUTPUTS)}."
            ),
            "parameters": [KEY],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _BODY}},
            },
            "responses": {"202": ACCEPTED, **errors_for(400, 403, 404, 409, 429, 507)},
        },
    ),
    Endpoint(
        "GET",
        "/dicomweb",
        get_servers,
        Role.READ,
        {
            "operationId": "servers",
            "summary": "Names of the archives that may be asked",
            "responses": {"200": json_answer("Names.", object_of({"servers": WORDS}))},
        },
    ),
)
