"""The MONAI Label protocol over the same jobs, so that 3D Slicer's MONAI Label panel works here.

What such a client asks: what there is (``/info/``), to keep a CT (``/session/``, or an image that
is uploaded under a name), and to segment it with a model (``/infer/{model}``). It learns and
stores nothing: training, scoring and active learning are not there, and the datastore is empty.
"""

from __future__ import annotations

import json
import tempfile
import uuid
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from imaging.errors import BadParameter, EmptyInput, InputTooLarge, ModelError
from imaging.limits import MIB
from imaging.version import VERSION
from models.labels import structure
from models.store import DEFAULT_ALIAS, Store
from serving.api.answers import AWAITED
from serving.api.desk import Desk, desk_of
from serving.api.door import Door
from serving.api.endpoint import Endpoint, note
from serving.api.intake import staged
from serving.api.segment import until_gone
from serving.guard.identity import Role, identity_of
from serving.guard.rules import is_open
from serving.jobs.record import Job
from serving.options import Options
from serving.outputs import DICOM_FILES, LABELS, media_type
from serving.sessions import Session, Sessions, link
from serving.threads import in_thread
from serving.uploads import Upload, receive

# What an answer's label map can be; the first where a client does not say.
EXTENSIONS = (".nii.gz", ".nrrd")
# Kinds of answers that a client may ask for in ``output``.
ANSWERS = ("all", "image", "json", "dicom_seg")

# Of a form that brings no CT: a login; parameters and perhaps scribbles.
_MOST_FIELDS = 16
_MOST_LOGIN_BYTES = 65536
_MOST_FORM_BYTES = 64 * MIB
_NO_IMAGES: dict[str, Any] = {"total": 0, "completed": 0, "label_tags": {}}


class Label:
    """The ASGI application, to be mounted under ``/monailabel``.

    Args:
        desk: settings, store and jobs, as for ``/v1``.
    """

    def __init__(self, desk: Desk) -> None:
        self._door = Door(ENDPOINTS)
        self._door.desk = desk
        self._door.app.state.sessions = Sessions(desk.jobs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._door(scope, receive, send)


async def get_info(request: Request) -> Response:
    """What there is: every model with its labels, and no training."""
    return JSONResponse(await in_thread(_info, desk_of(request).store))


async def get_auth(request: Request) -> Response:
    """Whether a token is needed."""
    return JSONResponse({"enabled": not is_open(desk_of(request).settings)})


async def post_token(request: Request) -> Response:
    """The password back as a token: who logs in gives a token of the service as the password."""
    bounded = _bounded(request, _MOST_LOGIN_BYTES)
    async with bounded.form(max_files=0, max_fields=_MOST_FIELDS) as form:
        token = str(form.get("password", ""))
    return JSONResponse({"access_token": token, "token_type": "bearer"})


async def get_token(request: Request) -> Response:
    """Whose token it is; the guard refuses a wrong one."""
    return JSONResponse({"username": identity_of(request).subject})


async def put_session(request: Request) -> Response:
    """Keep a CT for a while."""
    life = request.query_params.get("expiry", "0")
    if not life.isdecimal() or len(life) > len(str(2**31)):
        raise BadParameter("expiry is no number of seconds.", parameter="expiry")
    found = await _sessions(request).add(
        identity_of(request).subject, int(life), partial(_receive, request)
    )
    return JSONResponse({"session_id": found.id, "session_info": _described(found)})


async def put_image(request: Request) -> Response:
    """Keep a CT for a while under a name of the client's own."""
    name = request.query_params.get("image") or uuid.uuid4().hex
    subject = identity_of(request).subject
    await _sessions(request).add(subject, 0, partial(_receive, request), name)
    return JSONResponse({"image": name})


async def get_session(request: Request) -> Response:
    """What is known of a session."""
    found = _sessions(request).get(request.path_params["id"], identity_of(request).subject)
    return JSONResponse(_described(found))


async def delete_session(request: Request) -> Response:
    """Forget a session and its CT."""
    subject = identity_of(request).subject
    return JSONResponse(
        _described(await _sessions(request).remove(request.path_params["id"], subject))
    )


async def get_datastore(_: Request) -> Response:
    """No images are offered for annotation."""
    return JSONResponse({"objects": {}, **_NO_IMAGES})


async def post_infer(request: Request) -> Response:
    """Segment a session's CT, or one that comes with the request."""
    answer = request.query_params.get("output") or ANSWERS[0]
    if answer not in ANSWERS:
        raise BadParameter(
            f"There is no output {answer[:64]!r}; use one of {', '.join(ANSWERS)}.",
            parameter="output",
        )
    options = Options(
        model=request.path_params["model"],
        device=desk_of(request).settings.device,
        outputs=("seg",) if answer == "dicom_seg" else ("nifti",),
    )
    await in_thread(_check_model, desk_of(request).store, options)
    desk = desk_of(request)
    await in_thread(desk.jobs.room)
    async with staged(desk.jobs) as folder:
        asked = await _take(request, folder)
        extension = _extension(asked)
        job = await in_thread(
            desk.jobs.submit,
            "segment",
            options.to_json(),
            identity_of(request).subject,
            folder,
            priority=AWAITED,
        )
    note(request, job=job.id)
    ended = await until_gone(request, job)
    path = await in_thread(desk.jobs.result, ended)
    try:
        return await in_thread(_answer, ended, path, answer, extension)
    finally:
        # What was answered is not kept a second time.
        await in_thread(desk.jobs.delete, job.id)


async def _take(request: Request, folder: Path) -> dict[str, Any]:
    """Put the CT that a request means into a folder.

    Returns:
        The request's ``params``.
    """
    query, subject = request.query_params, identity_of(request).subject
    sessions = _sessions(request)
    found = sessions.find(subject, query.get("session_id"), query.get("image"))
    if found is None:
        return _params((await _receive(request, folder)).parameters.get("params", [""])[0])
    # A client may send scribbles along; a model that needs none is not shown them.
    bounded = _bounded(request, _MOST_FORM_BYTES)
    async with bounded.form(max_files=1, max_fields=_MOST_FIELDS) as form:
        asked = _params(str(form.get("params", "")))
    await in_thread(link, found.files, folder)
    return asked


def _bounded(request: Request, most: int) -> Request:
    """The request, whose body raises ``InputTooLarge`` past so many bytes."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise InputTooLarge(
                f"The form has more than {most} bytes; it brings no CT, so send less.", limit=most
            )
        return message

    return Request(request.scope, receive)


async def _receive(request: Request, folder: Path) -> Upload:
    desk = desk_of(request)
    try:
        return await receive(request, folder, desk.settings.limits, desk.uploads)
    except EmptyInput as error:
        raise EmptyInput(
            "The request names no session or image that is kept here, and holds no file; send the "
            "CT first."
        ) from error


def _answer(job: Job, path: Path, answer: str, extension: str) -> Response:
    """The result in the client's words."""
    said = _said(job)
    if answer == "json":
        return JSONResponse(said)
    with zipfile.ZipFile(path) as result:
        if answer == "dicom_seg":
            return Response(result.read(DICOM_FILES["seg"]), media_type="application/dicom")
        data = result.read(LABELS)
    name, kind = f"{job.id}{extension}", media_type(LABELS)
    if extension != EXTENSIONS[0]:
        data, kind = _nrrd(data), "application/octet-stream"
    if answer == "image":
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(data, headers=disposition, media_type=kind)
    return _form(said, name, kind, data)


def _said(job: Job) -> dict[str, Any]:
    """What goes with a label map: the labels that are in it, by value.

    Clients name the structures they find by their order, so one that is empty must not be named.
    """
    report: dict[str, Any] = (job.result or {})["report"]
    there = [name for name, found in report["structures"].items() if found["voxels"]]
    return {
        "label_names": {name: structure(name).value for name in there},
        "model": report["model"]["reference"],
        "volumes_ml": {name: report["structures"][name]["volume_ml"] for name in there},
        "warnings": report["warnings"],
        "seconds": report["seconds"],
    }


def _form(said: dict[str, Any], name: str, kind: str, data: bytes) -> Response:
    """A form of ``params`` and ``image``."""
    boundary = uuid.uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n'
        f"Content-Type: application/json\r\n\r\n{json.dumps(said)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    )
    body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")


def _nrrd(labels: bytes) -> bytes:
    """A label map's .nii.gz as .nrrd, its voxels as they are: OHIF unpacks no others."""
    import numpy as np
    import SimpleITK as sitk  # noqa: N813

    from imaging.nifti import read_nifti
    from imaging.resample import to_image

    with tempfile.TemporaryDirectory(prefix="islet-") as folder:
        source, target = Path(folder) / LABELS, Path(folder) / "labels.nrrd"
        source.write_bytes(labels)
        volume = read_nifti(source)
        sitk.WriteImage(to_image(volume.array.astype(np.uint8), volume.geometry), target)
        return target.read_bytes()


def _info(store: Store) -> dict[str, Any]:
    models: dict[str, dict[str, Any]] = {}
    for name in store.names():
        for alias in store.aliases(name):
            reference = name if alias == DEFAULT_ALIAS else f"{name}@{alias}"
            try:
                manifest = store.resolve(reference).manifest
            except ModelError:
                # One broken file must not hide the others.
                continue
            models[reference] = {
                "type": "segmentation",
                "labels": {found: structure(found).value for found in manifest.outputs},
                "dimension": 3,
                "description": f"{manifest.architecture}. {manifest.intended_use}",
                "config": {"result_extension": list(EXTENSIONS)},
            }
    labels = sorted({label for model in models.values() for label in model["labels"]})
    return {
        "name": "Islet",
        "description": "Segments abdominal CTs. For research; not a medical device.",
        "version": VERSION,
        "labels": labels,
        "models": models,
        **{name: {} for name in ("trainers", "strategies", "scoring", "train_stats")},
        "datastore": _NO_IMAGES,
    }


def _described(session: Session) -> dict[str, Any]:
    """A session in the client's words, without paths of ours."""
    return {
        "name": session.id,
        "path": "",
        "image": "",
        "meta": {},
        "create_ts": int(session.created),
        "last_access_ts": int(session.created),
        "expiry": int(session.expires - session.created),
    }


def _check_model(store: Store, options: Options) -> None:
    options.masks_of(store.resolve(options.model).manifest)


def _params(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise BadParameter("The field params is no JSON.", parameter="params") from error
    if not isinstance(found, dict):
        raise BadParameter("The field params is JSON but no object.", parameter="params")
    return found


def _extension(asked: dict[str, Any]) -> str:
    extension = asked.get("result_extension") or EXTENSIONS[0]
    if extension not in EXTENSIONS:
        raise BadParameter(
            f"There is no result_extension {str(extension)[:64]!r}; use one of "
            f"{', '.join(EXTENSIONS)}.",
            parameter="result_extension",
        )
    return str(extension)


def _sessions(request: Request) -> Sessions:
    found: Sessions = request.app.state.sessions
    return found


def _endpoint(method: str, path: str, handle: Any, role: Role | None = Role.SEGMENT) -> Endpoint:
    """An endpoint that only MONAI Label's own documentation describes."""
    name = f"monailabel_{handle.__name__.partition('_')[2]}"
    return Endpoint(method, path, handle, role, {"operationId": name, "responses": {}})


ENDPOINTS = (
    _endpoint("GET", "/info/", get_info),
    _endpoint("GET", "/auth/", get_auth, None),
    _endpoint("POST", "/auth/token", post_token, None),
    _endpoint("GET", "/auth/token/valid", get_token),
    _endpoint("PUT", "/session/", put_session),
    _endpoint("GET", "/session/{id}", get_session),
    _endpoint("DELETE", "/session/{id}", delete_session),
    _endpoint("GET", "/datastore/", get_datastore),
    _endpoint("PUT", "/datastore/", put_image),
    _endpoint("POST", "/infer/{model}", post_infer),
)
