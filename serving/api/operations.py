"""Pieces of OpenAPI operations that several endpoints share."""

from __future__ import annotations

from typing import Any

from models.labels import DEFAULT_MASKS, MASKS
from serving.api.answers import MULTIPART, ZIP
from serving.api.schemas import BINARY, WORD, json_answer, parameter, ref
from serving.engines import DEVICES
from serving.options import DOUBTFUL
from serving.outputs import OUTPUTS

SENT = (
    "The body is one CT: a NIfTI file, a zip of DICOM or NIfTI files, or one DICOM file, under any "
    "content type; or a multipart form of one or more files under any field names, whose other "
    "fields are the parameters. Masks are on the CT's own grid."
)

_LISTS = {"style": "form", "explode": False}

CT_PARAMETERS: list[dict[str, Any]] = [
    parameter("model", "query", WORD, "name, name@version or name@alias; see /models."),
    parameter(
        "structures",
        "query",
        {"type": "array", "items": {"type": "string", "enum": list(MASKS)}},
        "Masks to return, separated by commas or repeated. By default "
        f"{', '.join(DEFAULT_MASKS)}, as many of them as the model can find.",
        **_LISTS,
    ),
    parameter(
        "outputs",
        "query",
        {"type": "array", "items": {"type": "string", "enum": list(OUTPUTS)}, "default": ["nifti"]},
        "Kinds of files to return, separated by commas or repeated. DICOM ones need a CT that "
        "came as DICOM.",
        **_LISTS,
    ),
    parameter(
        "series",
        "query",
        WORD,
        "SeriesInstanceUID to take where the input holds several series.",
    ),
    parameter(
        "device", "query", {"type": "string", "enum": list(DEVICES)}, "Where the model runs."
    ),
    parameter(
        "doubtful",
        "query",
        {"type": "string", "enum": list(DOUBTFUL), "default": DOUBTFUL[0]},
        "What becomes of structures and lesions whose confidence is less than the model asks for.",
    ),
]

PRIORITY = parameter(
    "priority",
    "query",
    {"type": "string", "enum": ["low", "normal", "high"], "default": "normal"},
    "Higher ones go first; equal ones in the order in which they came.",
)

KEY = parameter(
    "Idempotency-Key",
    "header",
    {"type": "string", "minLength": 1, "maxLength": 255},
    "A word of the caller's own. The same request under the same key gives the first job again; "
    "another request under it is refused.",
)


def ct_body(*parameters: dict[str, Any]) -> dict[str, Any]:
    """The request body of an endpoint that takes a CT and these parameters."""
    form = {
        "type": "object",
        "properties": {
            "ct": {"type": "array", "items": BINARY},
            **{one["name"]: one["schema"] for one in parameters},
        },
    }
    kinds = ("octet-stream", "zip", "gzip", "dicom")
    content = {f"application/{kind}": {"schema": BINARY} for kind in kinds}
    return {"required": True, "content": content | {"multipart/form-data": {"schema": form}}}


# What a body with a CT, a form of it and its model can meet before any work is done.
INTAKE_ERRORS = (400, 404, 408, 413, 422, 429, 507)
# What the work can meet, and what it is as the answer to who wants its result.
WORK_ERRORS = (400, 404, 409, 410, 413, 415, 422, 504, 507)
# Work towards an archive can also meet that archive.
RESULT_ERRORS = tuple(sorted({*WORK_ERRORS, 502}))

FILES: dict[str, Any] = {kind: {"schema": BINARY} for kind in (ZIP, *MULTIPART)}


def job_answer(description: str) -> dict[str, Any]:
    """A job as the answer."""
    return json_answer(description, ref("Job"))


ACCEPTED = job_answer("The job is on disk and will be done.") | {
    "headers": {"Location": {"description": "Where to ask for it.", "schema": WORD}}
}

JOB_ID = parameter("id", "path", {"type": "string", "pattern": "^[0-9a-f]{32}$"}, "Of the job.")
