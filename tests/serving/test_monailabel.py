"""The requests that 3D Slicer's and OHIF's MONAI Label plugins send, over HTTP.

Paths, fields and answers are those of the client class in monailabel 0.8.5 and of the OHIF plugin
that it ships.
"""

from __future__ import annotations

import asyncio
import email.policy
import io
import json
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from imaging.errors import JobNotFound, ServiceBusy
from serving.jobs.jobs import Jobs
from serving.jobs.record import State
from serving.sessions import Sessions
from serving.settings import Settings
from serving.uploads import Upload
from tests.imaging.dicom_files import write_series
from tests.serving.live import Live
from tests.serving.tiny_model import CENTRES, boxes_ct


@pytest.fixture
def slicer(live: Live) -> Iterator[httpx.Client]:
    """Ann, at her Slicer; nothing of hers is left over."""
    headers = {"Authorization": "Bearer ann"}
    url = f"{live.url}/monailabel"
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
        yield client
    assert not any(job.state in (State.QUEUED, State.RUNNING) for job in live.jobs.list("ann"))


def opened(slicer: httpx.Client, ct: Path) -> str:
    """The id of a new session."""
    sent = {"files": (ct.name, ct.read_bytes())}
    answer = slicer.put("/session/", files=sent, data={"client_id": "slicer"})
    assert answer.status_code == 200
    return str(answer.json()["session_id"])


def infer(
    slicer: httpx.Client, session: str, model: str = "starter", output: str = "", **params: Any
) -> httpx.Response:
    form = {"params": (None, json.dumps({"client_id": "slicer", **params}))}
    query = {"image": "Doe^John", "session_id": session} | ({"output": output} if output else {})
    return slicer.post(f"/infer/{model}", params=query, files=form)


def parts_of(answer: httpx.Response) -> tuple[dict[str, Any], str, bytes]:
    """``params``, and the name and bytes of ``image``, of a multipart answer."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    whole = BytesParser(policy=email.policy.HTTP).parsebytes(head + answer.content)
    said, image = whole.iter_parts()
    names = [p.get_param("name", header="content-disposition") for p in (said, image)]
    assert names == ["params", "image"]
    return json.loads(said.get_content()), str(image.get_filename()), image.get_content()


def voxels(data: bytes, folder: Path, name: str) -> np.ndarray:
    path = folder / name
    path.write_bytes(data)
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def test_info_says_what_there_is(slicer: httpx.Client) -> None:
    info = slicer.get("/info/").json()
    assert sorted(info["models"]) == ["flat", "starter"]
    model = info["models"]["starter"]
    assert (model["type"], model["dimension"]) == ("segmentation", 3)
    assert model["labels"] == {"pancreas": 1, "pancreas_tumor": 2, "kidney": 3}
    assert info["labels"] == ["kidney", "pancreas", "pancreas_tumor"]
    assert info["datastore"]["total"] == 0
    assert all(info[name] == {} for name in ("trainers", "strategies", "scoring"))


def test_a_session_is_segmented_by_several_models(
    slicer: httpx.Client, ct: Path, tmp_path: Path
) -> None:
    session = opened(slicer, ct)
    for model, extension in (("starter", ".nii.gz"), ("flat", ".nrrd")):
        said, name, data = parts_of(infer(slicer, session, model, result_extension=extension))
        assert name.endswith(extension)
        assert said["label_names"] == {"pancreas": 1, "pancreas_tumor": 2, "kidney": 3}
        np.testing.assert_array_equal(voxels(data, tmp_path, name), boxes_ct()[1])
        image = sitk.ReadImage(tmp_path / name)
        assert image.GetOrigin() == pytest.approx((-100.0, -50.0, 30.0))
        assert image.GetSpacing() == pytest.approx((0.9, 0.8, 2.5))
    assert slicer.get(f"/session/{session}").json()["name"] == session
    assert slicer.delete(f"/session/{session}").status_code == 200
    assert slicer.get(f"/session/{session}").status_code == 404
    assert infer(slicer, session).json()["error"]["code"] == "job_not_found"


def test_only_labels_that_are_there_are_named(slicer: httpx.Client, tmp_path: Path) -> None:
    """Slicer names segments in order: a name too many would shift all that follow."""
    stored = np.full((4, 16, 20), CENTRES["background"] + 1024, np.uint16)
    stored[1:3, 4:10, 5:12] = CENTRES["kidney"] + 1024
    files = write_series(tmp_path / "series", stored)
    sent = [("files", (path.name, path.read_bytes())) for path in files]
    session = slicer.put("/session/", files=sent).json()["session_id"]
    said, _, _ = parts_of(infer(slicer, session))
    assert said["label_names"] == {"kidney": 3}
    assert infer(slicer, session, output="json").json()["label_names"] == {"kidney": 3}
    seg = pydicom.dcmread(io.BytesIO(infer(slicer, session, output="dicom_seg").content))
    assert seg.Modality == "SEG"
    assert slicer.delete(f"/session/{session}").status_code == 200


def test_ohif_gets_plain_voxels(slicer: httpx.Client, ct: Path) -> None:
    """Its reader inflates no data; it takes the bytes after the header as they are."""
    session = opened(slicer, ct)
    answer = infer(slicer, session, output="image", result_extension=".nrrd", result_dtype="uint8")
    head, _, data = answer.content.partition(b"\n\n")
    assert b"encoding: raw" in head
    assert b"type: unsigned char" in head
    assert data == boxes_ct()[1].tobytes()
    slicer.delete(f"/session/{session}")


def test_a_ct_comes_with_the_request_or_under_a_name(slicer: httpx.Client, ct: Path) -> None:
    sent = {"params": (None, "{}"), "file": (ct.name, ct.read_bytes())}
    said, _, _ = parts_of(slicer.post("/infer/starter?image=x", files=sent))
    assert "kidney" in said["label_names"]
    for _ in range(2):
        kept = slicer.put("/datastore/?image=Doe^John", files={"file": (ct.name, ct.read_bytes())})
        assert kept.json() == {"image": "Doe^John"}
    assert parts_of(infer(slicer, ""))[0]["label_names"]
    assert slicer.get("/datastore/?output=all").json()["total"] == 0


@pytest.mark.parametrize(
    ("path", "form", "status", "code"),
    [
        ("/infer/monet", {}, 404, "model_not_found"),
        ("/infer/starter?image=unknown", {}, 422, "empty_input"),
        ("/infer/starter?session_id=unknown", {}, 404, "job_not_found"),
        ("/infer/starter?output=voxels", {}, 400, "bad_parameter"),
        ("/train/", {}, 404, "not_found"),
    ],
)
def test_refusals_have_the_one_shape(
    slicer: httpx.Client, path: str, form: dict[str, str], status: int, code: str
) -> None:
    answer = slicer.post(path, files={"params": (None, "{}")})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize("params", ["{", "[]", '{"result_extension": ".exe"}'])
def test_params_that_are_none_are_refused(slicer: httpx.Client, ct: Path, params: str) -> None:
    session = opened(slicer, ct)
    sent = {"params": (None, params)}
    answer = slicer.post("/infer/starter", params={"session_id": session}, files=sent)
    assert answer.json()["error"]["code"] == "bad_parameter"
    slicer.delete(f"/session/{session}")


def test_a_session_is_its_owners_alone(slicer: httpx.Client, ct: Path) -> None:
    session = opened(slicer, ct)
    other = {"Authorization": "Bearer bob"}
    assert slicer.get(f"/session/{session}", headers=other).status_code == 404
    assert slicer.delete(f"/session/{session}", headers=other).status_code == 404
    assert slicer.delete(f"/session/{session}").status_code == 200


def test_who_logs_in_gives_a_token_as_the_password(slicer: httpx.Client) -> None:
    assert slicer.get("/auth/").json() == {"enabled": False}
    sent = {"username": "ann", "password": "islet_123", "grant_type": "password"}
    made = slicer.post("/auth/token", data=sent).json()
    assert made == {"access_token": "islet_123", "token_type": "bearer"}
    assert slicer.get("/auth/token/valid").json() == {"username": "ann"}
    flood = slicer.post("/auth/token", data={"password": "x" * 100_000})
    assert flood.json()["error"]["code"] == "input_too_large"


def test_sessions_are_bounded_in_number_and_time(tmp_path: Path) -> None:
    jobs = Jobs(Settings(spool=tmp_path))

    async def receive(folder: Path) -> Upload:
        (folder / "body").write_bytes(b"ct")
        return Upload([folder / "body"])

    async def scenario() -> None:
        sessions = Sessions(jobs, most=3, most_each=2)
        made = [await sessions.add("ann", 0, receive) for _ in range(3)]
        with pytest.raises(JobNotFound):
            sessions.get(made[0].id, "ann")
        assert not made[0].files[0].exists()
        assert sessions.get(made[2].id, "ann").files[0].exists()
        short = await sessions.add("bob", 1, receive)
        with pytest.raises(ServiceBusy):
            await sessions.add("carl", 0, receive)
        await asyncio.sleep(1.3)
        with pytest.raises(JobNotFound):
            sessions.get(short.id, "bob")
        assert not short.files[0].exists()
        for session in made[1:]:
            await sessions.remove(session.id, "ann")

    asyncio.run(scenario())
    assert list((tmp_path / "staging").iterdir()) == []
    jobs.close()
