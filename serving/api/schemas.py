"""Words that the endpoints' OpenAPI operations are written with, and the component schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from serving.findings import Reason
from serving.jobs.record import State
from serving.statuses import ROUTER_CODES, codes

Schema = dict[str, Any]

WORD: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
BINARY: Schema = {"type": "string", "format": "binary"}
WORDS: Schema = {"type": "array", "items": WORD}
NUMBERS: Schema = {"type": "array", "items": NUMBER}
INTEGERS: Schema = {"type": "array", "items": WHOLE}


def ref(name: str) -> Schema:
    """A component schema, by name."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(properties: Mapping[str, Any], **more: Any) -> Schema:
    """An object whose every property is required."""
    whole = {"type": "object", "required": list(properties), "properties": dict(properties)}
    return whole | more


def maybe(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


# Null where the model is not calibrated, or nothing was found.
CONFIDENCE: Schema = maybe({"type": "number", "minimum": 0, "maximum": 1})


def json_answer(description: str, schema: Schema) -> dict[str, Any]:
    """An answer in JSON."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def parameter(
    name: str, where: str, schema: Schema, description: str, **more: Any
) -> dict[str, Any]:
    """A parameter in the ``query``, ``header`` or ``path``; one in the path is required."""
    made = {"name": name, "in": where, "required": where == "path", "schema": schema}
    return made | {"description": description} | more


def errors_for(*statuses: int) -> dict[str, Any]:
    """An answer in the one error shape for each status, with the codes it can have."""
    named: dict[int, list[str]] = {}
    for code, status in codes().items():
        if code not in ROUTER_CODES.values():
            named.setdefault(status, []).append(code)
    answers = {
        str(status): json_answer(f"Code: {', '.join(sorted(named[status]))}.", ref("Error"))
        for status in statuses
    }
    if "429" in answers:
        wait = {"description": "Seconds.", "schema": WHOLE}
        answers["429"]["headers"] = {"Retry-After": wait}
    return answers


def _described() -> dict[str, Any]:
    """The numbers of a mask or a structure."""
    return {
        "found": FLAG,
        "confidence": CONFIDENCE,
        "voxels": WHOLE,
        "volume_ml": NUMBER,
        "centroid_lps_mm": {"type": ["array", "null"], "items": NUMBER},
        "bounding_box": maybe(object_of({"start": INTEGERS, "stop": INTEGERS})),
        "touches_edge": WORDS,
    }


def _structure() -> Schema:
    lesion = {
        "volume_ml": NUMBER,
        "centroid_lps_mm": NUMBERS,
        "confidence": CONFIDENCE,
        "doubtful": FLAG,
    }
    lesions = {"type": "array", "items": object_of(lesion)}
    return object_of(_described() | {"doubtful": FLAG, "lesions": lesions})


def _report() -> Schema:
    card = ("name", "reference", "sha256", "architecture", "scope", "licence", "intended_use")
    origin = {
        "format": {"type": "string", "enum": ["nifti", "dicom", "zip"]},
        "bytes": WHOLE,
        "axes": {"const": "zyx"},
        "shape": INTEGERS,
        "spacing_mm": NUMBERS,
        "orientation": WORD,
    }
    mask = object_of({"structures": WORDS, "not_looked_for": WORDS} | _described())
    schema = object_of(
        {
            "schema": {"const": 1},
            "islet": WORD,
            "model": object_of(dict.fromkeys(card, WORD) | {"version": WHOLE}),
            "outputs": WORDS,
            "input": object_of(origin),
            "masks": {"type": "object", "additionalProperties": mask},
            "structures": {"type": "object", "additionalProperties": _structure()},
            "nothing_here": FLAG,
            "nothing_here_reason": {"enum": [*get_args(Reason), None]},
            "warnings": WORDS,
            "device": {"type": "string", "enum": ["cpu", "cuda"]},
            "seconds": {"type": "object", "additionalProperties": NUMBER},
        },
        additionalProperties=False,
    )
    # Of a CT that came from an archive.
    schema["properties"]["pacs"] = {"type": "object"}
    return schema


def _job() -> Schema:
    time = maybe({"type": "string", "format": "date-time"})
    file = object_of({"name": WORD, "type": WORD, "bytes": WHOLE, "href": WORD})
    return object_of(
        {
            "id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            "kind": {"type": "string", "enum": ["segment", "dicomweb", "dimse"]},
            "state": {"type": "string", "enum": [state.value for state in State]},
            "cancelling": {"type": "boolean"},
            "priority": {"type": "string", "enum": ["low", "normal", "high", "awaited"]},
            "place": maybe({"type": "integer", "minimum": 1}),
            "step": maybe(WORD),
            "part": {"type": "number", "minimum": 0, "maximum": 1},
            "eta_s": maybe({"type": "number", "minimum": 0}),
            "created": time,
            "started": time,
            "ended": time,
            "attempts": WHOLE,
            "model": maybe(WORD),
            "model_sha256": maybe(WORD),
            "files": {"type": "array", "items": file},
            "error": maybe(_error()),
            "links": {"type": "object", "additionalProperties": WORD},
        }
    )


def _error() -> Schema:
    return object_of({"code": WORD, "message": WORD, "details": {"type": "object"}})


def _model() -> Schema:
    version = {
        "type": "object",
        "required": ["version", "reference"],
        "properties": {
            "version": WHOLE,
            "reference": WORD,
            "sha256": WORD,
            "bytes": WHOLE,
            "masks": WORDS,
            "manifest": {"type": "object"},
            "error": _error(),
        },
    }
    return object_of(
        {
            "name": WORD,
            "aliases": {"type": "object", "additionalProperties": WHOLE},
            "versions": {"type": "array", "items": version},
        }
    )


SCHEMAS: dict[str, Schema] = {
    "Error": object_of({"error": _error()}),
    "Report": _report(),
    "Job": _job(),
    "Jobs": object_of({"jobs": {"type": "array", "items": ref("Job")}}),
    "Model": _model(),
    "Models": object_of({"default": WORD, "models": {"type": "array", "items": ref("Model")}}),
}
