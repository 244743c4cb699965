"""``/models``: what the store holds, and how it changes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imaging.errors import BadParameter, EmptyInput, ModelNotFound
from imaging.limits import MIB
from models.door import admit
from models.store import StoredModel
from serving.api.desk import Desk, desk_of
from serving.api.endpoint import Endpoint, json_object, note
from serving.api.schemas import (
    BINARY,
    WHOLE,
    WORD,
    WORDS,
    errors_for,
    json_answer,
    object_of,
    parameter,
    ref,
)
from serving.catalogue import entries, entry
from serving.engines import largest_file
from serving.guard.identity import Role
from serving.options import split_words
from serving.threads import in_thread
from serving.uploads import Upload, check_length, receive

_FIELDS = ("alias", "manifest")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


async def get_models(request: Request) -> Response:
    """Every model, its versions, aliases and manifests."""
    desk = desk_of(request)
    listed = await in_thread(entries, desk.store)
    return JSONResponse({"default": desk.settings.model, "models": listed})


async def get_model(request: Request) -> Response:
    """One of them."""
    return JSONResponse(await in_thread(entry, desk_of(request).store, _name(request)))


async def post_model(request: Request) -> Response:
    """A model from elsewhere in; the store is as before when it is refused."""
    desk = desk_of(request)
    limits = replace(
        desk.settings.limits,
        max_bytes=largest_file(desk.settings.model_memory_mb) + MIB,
        max_files=2,
    )
    query = {name: request.query_params.getlist(name) for name in request.query_params}
    _check_fields(query)
    check_length(request, limits)
    with desk.jobs.staged() as folder:
        upload = await receive(request, folder / "model", limits, desk.uploads)
        parcel = await in_thread(_unpack, upload, query)
        model = await in_thread(_admit, desk, parcel)
    note(request, model=model.reference)
    listed = await in_thread(entry, desk.store, model.name)
    base = request.scope.get("root_path", "")
    made = {"reference": model.reference, "sha256": model.sha256, "model": listed}
    return JSONResponse(made, 201, {"Location": f"{base}/models/{model.name}"})


async def put_alias(request: Request) -> Response:
    """An alias moves, or is made."""
    given = await json_object(request, ("version",))
    version = given.get("version")
    if isinstance(version, bool) or not isinstance(version, int):
        raise BadParameter(
            f'The version is {str(version)[:64]!r}; send {{"version": 3}}.', parameter="version"
        )
    store, name, alias = desk_of(request).store, _name(request), request.path_params["alias"]
    await in_thread(store.point, name, alias, version)
    note(request, model=f"{name}@{alias}", version=str(version))
    return JSONResponse(await in_thread(entry, store, name))


async def delete_alias(request: Request) -> Response:
    """An alias goes; the versions stay."""
    store, name, alias = desk_of(request).store, _name(request), request.path_params["alias"]
    await in_thread(store.unpoint, name, alias)
    note(request, model=f"{name}@{alias}")
    return Response(status_code=204)


async def delete_version(request: Request) -> Response:
    """A version that no alias names goes; jobs that run it end with it."""
    store, name = desk_of(request).store, _name(request)
    version = _version(name, request.path_params["version"])
    await in_thread(store.remove, name, version)
    note(request, model=f"{name}@{version}")
    return Response(status_code=204)


@dataclass(frozen=True)
class _Parcel:
    """What was sent: an ONNX file, the manifest beside it, and the aliases to move."""

    file: Path
    manifest: str | None
    aliases: tuple[str, ...]


def _unpack(upload: Upload, query: Mapping[str, Sequence[str]]) -> _Parcel:
    """Content tells a manifest from a model, whatever the parts of the form are called."""
    _check_fields(upload.parameters)
    beside = [file for file in upload.files if _is_json(file)]
    models = [file for file in upload.files if file not in beside]
    manifests = [
        *upload.parameters.get("manifest", ()),
        *(file.read_text(errors="replace") for file in beside),
    ]
    if not models:
        raise EmptyInput("There is no ONNX file in the form; add one as a part with a filename.")
    if len(models) > 1 or len(manifests) > 1:
        raise BadParameter(
            f"The form has {len(models)} models and {len(manifests)} manifests; send one model "
            "and at most one manifest."
        )
    named = [*query.get("alias", ()), *upload.parameters.get("alias", ())]
    aliases = tuple(dict.fromkeys(split_words(named)))
    return _Parcel(models[0], manifests[0] if manifests else None, aliases)


def _is_json(file: Path) -> bool:
    with file.open("rb") as opened:
        # An ONNX file begins with the number of its IR version, never with a brace.
        return opened.read(64).lstrip().startswith(b"{")


def _admit(desk: Desk, parcel: _Parcel) -> StoredModel:
    most = largest_file(desk.settings.model_memory_mb)
    return admit(desk.store, parcel.file, parcel.manifest, parcel.aliases, most)


def _check_fields(given: Mapping[str, Sequence[str]]) -> None:
    for name in given:
        if name not in _FIELDS:
            raise BadParameter(
                f"There is no parameter {name[:64]!r}; there are {', '.join(_FIELDS)}.",
                parameter=name[:64],
                known=list(_FIELDS),
            )


def _name(request: Request) -> str:
    return str(request.path_params["name"])


def _version(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ModelNotFound(
            f"{name[:64]} has no version {text[:64]!r}; a version is a number from 1.",
            model=name[:64],
        )
    return int(text)


_PATH_NAME = parameter("name", "path", WORD, "Of the model.")
_PATH_ALIAS = parameter("alias", "path", WORD, "A word such as live, global or site-2.")
_PATH_VERSION = parameter("version", "path", WORD, "A number from 1.")
_MODEL = json_answer("The model.", ref("Model"))
_GONE = {"description": "Done."}
_BODY = {
    "required": True,
    "description": "An ONNX file that describes itself, or a form of an ONNX file, the manifest "
    "beside it (a field or a file) and aliases.",
    "content": {
        "application/octet-stream": {"schema": BINARY},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["model"],
                "properties": {"model": BINARY, "manifest": WORD, "alias": WORDS},
            }
        },
    },
}

ENDPOINTS = (
    Endpoint(
        "GET",
        "/models",
        get_models,
        Role.READ,
        {
            "operationId": "models",
            "summary": "Models, versions, aliases, manifests, and the masks each can give",
            "responses": {"200": json_answer("The store.", ref("Models"))},
        },
    ),
    Endpoint(
        "POST",
        "/models",
        post_model,
        Role.ADMIN,
        {
            "operationId": "publish_model",
            "summary": "A model from elsewhere in, as the next version of its name",
            "description": "It is looked at and run once before the store takes it in; when it is "
            "refused nothing is changed. Without an alias nothing moves.",
            "parameters": [
                parameter(
                    "alias", "query", WORDS, "To point at the new version; repeated or with commas."
                )
            ],
            "requestBody": _BODY,
            "responses": {
                "201": json_answer(
                    "Published.",
                    object_of({"reference": WORD, "sha256": WORD, "model": ref("Model")}),
                ),
                **errors_for(400, 413, 422, 507),
            },
        },
    ),
    Endpoint(
        "GET",
        "/models/{name}",
        get_model,
        Role.READ,
        {
            "operationId": "model",
            "summary": "One model",
            "parameters": [_PATH_NAME],
            "responses": {"200": _MODEL, **errors_for(404)},
        },
    ),
    Endpoint(
        "PUT",
        "/models/{name}/aliases/{alias}",
        put_alias,
        Role.ADMIN,
        {
            "operationId": "point_alias",
            "summary": "Move or make an alias; requests follow it from the next one on",
            "parameters": [_PATH_NAME, _PATH_ALIAS],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": object_of({"version": WHOLE}, additionalProperties=False)
                    }
                },
            },
            "responses": {"200": _MODEL, **errors_for(400, 404)},
        },
    ),
    Endpoint(
        "DELETE",
        "/models/{name}/aliases/{alias}",
        delete_alias,
        Role.ADMIN,
        {
            "operationId": "delete_alias",
            "summary": "Remove an alias; the versions stay",
            "parameters": [_PATH_NAME, _PATH_ALIAS],
            "responses": {"204": _GONE, **errors_for(400, 404)},
        },
    ),
    Endpoint(
        "DELETE",
        "/models/{name}/versions/{version}",
        delete_version,
        Role.ADMIN,
        {
            "operationId": "delete_version",
            "summary": "Remove a version that no alias names; jobs that run it end with it",
            "parameters": [_PATH_NAME, _PATH_VERSION],
            "responses": {"204": _GONE, **errors_for(400, 404)},
        },
    ),
)
