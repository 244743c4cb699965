"""The OpenAPI document of ``/v1``; a test holds it against the router and the error table."""

from __future__ import annotations

from typing import Any

from imaging.version import VERSION
from models.labels import DEFAULT_MASKS, MASKS
from serving.engine import DEVICES
from serving.options import OUTPUTS
from serving.statuses import INTERNAL, ROUTER_CODES, codes

_BINARY = {"type": "string", "format": "binary"}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_INTEGERS = {"type": "array", "items": {"type": "integer"}}
_WORDS = {"type": "array", "items": {"type": "string"}}


def document() -> dict[str, Any]:
    """The whole document, JSON-serialisable."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Islet",
            "version": VERSION,
            "description": "Segments abdominal CTs. For research; not a medical device.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/v1"}],
        "paths": {
            "/segment": {"post": _segment()},
            "/models": {"get": _models()},
            "/openapi.json": {"get": _openapi()},
        },
        "components": {"schemas": _schemas()},
    }


def _segment() -> dict[str, Any]:
    return {
        "operationId": "segment",
        "summary": "A CT in; label map, masks and report out",
        "description": (
            "The body is one CT: a NIfTI file, a zip of DICOM or NIfTI files, or one DICOM file, "
            "under any content type; or a multipart form of one or more files under any field "
            "names, whose other fields are the parameters. Masks are on the CT's own grid."
        ),
        "parameters": [
            {"name": name, "in": "query", "required": False} | rest
            for name, rest in _parameters().items()
        ],
        "requestBody": {"required": True, "content": _bodies()},
        "responses": {
            "200": {
                "description": (
                    "output=nifti: a zip of labels.nii.gz, one .nii.gz a mask and report.json; "
                    "output=json: the report."
                ),
                "content": {
                    "application/zip": {"schema": _BINARY},
                    "application/json": {"schema": {"$ref": "#/components/schemas/Report"}},
                },
            },
            **_errors(set(codes().values()) - {405}),
        },
    }


def _models() -> dict[str, Any]:
    return {
        "operationId": "models",
        "summary": "Models, their versions, aliases and manifests",
        "responses": {
            "200": _json("What the store holds.", {"$ref": "#/components/schemas/Models"}),
            **_errors({500}),
        },
    }


def _openapi() -> dict[str, Any]:
    return {
        "operationId": "openapi",
        "summary": "This document",
        "responses": {"200": _json("OpenAPI 3.1.", {"type": "object"}), **_errors({500})},
    }


def _parameters() -> dict[str, dict[str, Any]]:
    return {
        "model": {
            "description": "name, name@version or name@alias; see /models.",
            "schema": {"type": "string"},
        },
        "structures": {
            "description": (
                f"Masks to return, separated by commas or repeated. By default "
                f"{', '.join(DEFAULT_MASKS)}, as many of them as the model can find."
            ),
            "style": "form",
            "explode": False,
            "schema": {"type": "array", "items": {"type": "string", "enum": list(MASKS)}},
        },
        "output": {"schema": {"type": "string", "enum": list(OUTPUTS), "default": OUTPUTS[0]}},
        "series": {
            "description": "SeriesInstanceUID to take where the input holds several series.",
            "schema": {"type": "string"},
        },
        "device": {"schema": {"type": "string", "enum": list(DEVICES)}},
    }


def _bodies() -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {
            "ct": {"type": "array", "items": _BINARY},
            **{name: rest["schema"] for name, rest in _parameters().items()},
        },
    }
    return {
        "application/octet-stream": {"schema": _BINARY},
        "application/zip": {"schema": _BINARY},
        "application/gzip": {"schema": _BINARY},
        "application/dicom": {"schema": _BINARY},
        "multipart/form-data": {"schema": form},
    }


def _errors(statuses: set[int]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code, status in codes().items():
        if code not in ROUTER_CODES.values():
            by_status.setdefault(status, []).append(code)
    answers = {}
    for status in sorted(statuses):
        named = by_status[status] if len(statuses) > 1 else [INTERNAL]
        answers[str(status)] = _json(
            f"Code: {', '.join(sorted(named))}.", {"$ref": "#/components/schemas/Error"}
        )
    if "429" in answers:
        wait = {"description": "Seconds.", "schema": {"type": "integer"}}
        answers["429"]["headers"] = {"Retry-After": wait}
    return answers


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object whose every property is required."""
    return {"type": "object", "required": list(properties), "properties": properties} | more


def _schemas() -> dict[str, Any]:
    word, whole, number = {"type": "string"}, {"type": "integer"}, {"type": "number"}
    described = {
        "voxels": whole,
        "volume_ml": number,
        "centroid_lps_mm": {"type": ["array", "null"], "items": number},
        "bounding_box": {
            "type": ["object", "null"],
            "required": ["start", "stop"],
            "properties": {"start": _INTEGERS, "stop": _INTEGERS},
        },
        "touches_edge": _WORDS,
    }
    card = ("name", "reference", "sha256", "architecture", "scope", "licence", "intended_use")
    origin = {
        "format": {"type": "string", "enum": ["nifti", "dicom", "zip"]},
        "bytes": whole,
        "axes": {"const": "zyx"},
        "shape": _INTEGERS,
        "spacing_mm": _NUMBERS,
        "orientation": word,
    }
    mask = _object({"structures": _WORDS, "not_looked_for": _WORDS} | described)
    return {
        "Error": _object(
            {"error": _object({"code": word, "message": word, "details": {"type": "object"}})}
        ),
        "Report": _object(
            {
                "schema": {"const": 1},
                "islet": word,
                "model": _object(dict.fromkeys(card, word) | {"version": whole}),
                "input": _object(origin),
                "masks": {"type": "object", "additionalProperties": mask},
                "structures": {"type": "object", "additionalProperties": _object(described)},
                "warnings": _WORDS,
                "device": {"type": "string", "enum": ["cpu", "cuda"]},
                "seconds": {"type": "object", "additionalProperties": number},
            },
            additionalProperties=False,
        ),
        "Models": _object(
            {"default": word, "models": {"type": "array", "items": _model_entry(word, whole)}}
        ),
    }


def _model_entry(word: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    version = {
        "type": "object",
        "required": ["version", "reference"],
        "properties": {
            "version": whole,
            "reference": word,
            "sha256": word,
            "masks": _WORDS,
            "manifest": {"type": "object"},
            "error": {"type": "object"},
        },
    }
    return _object(
        {
            "name": word,
            "aliases": {"type": "object", "additionalProperties": whole},
            "versions": {"type": "array", "items": version},
        }
    )
