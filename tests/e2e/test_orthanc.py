"""A hospital in small: a real archive, the real service and listener, each a process of its own.

Images are pushed into Orthanc and results appear in it, over its hook and DICOMweb, or over DIMSE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from models.store import Store
from serving.process import ROOT, free_port, running, serve_command, serve_environment
from tests.serving.pacs.orthanc import Orthanc, needs, orthanc
from tests.serving.pacs.scenes import truth, write_boxes
from tests.serving.tiny_model import boxes_ct, publish

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HOOK = ROOT / "serving" / "pacs" / "orthanc.lua"
WITHIN_S = 60.0


@dataclass(frozen=True)
class Hospital:
    """An archive that asks a service, which knows it as ``main``."""

    pacs: Orthanc
    islet: str
    environment: dict[str, str]
    folder: Path


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    needs("Orthanc", "storescu")
    folder = tmp_path_factory.mktemp("hospital")
    store = Store(folder / "store", behind=())
    publish(store, folder)
    port, listener = free_port(), free_port()
    islet = f"http://127.0.0.1:{port}"
    (folder / "password").write_text("sesame\n")
    more = {
        "DicomServerEnabled": True,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"islet": "sesame"},
        "LuaScripts": [str(HOOK)],
        "Islet": {"Url": islet, "Server": "main"},
        "DicomModalities": {"islet": ["ISLET", "127.0.0.1", listener]},
    }
    with orthanc(folder / "orthanc", **more) as pacs:
        (folder / "pacs.toml").write_text(
            f'[servers.main]\nurl = "{pacs.dicomweb}"\nuser = "islet"\n'
            'password_file = "password"\n'
            f'[peers.archive]\naet = "ORTHANC"\nhost = "127.0.0.1"\nport = {pacs.dimse}\n'
            '[listener]\ncallers = ["CT1"]\nsend_to = "archive"\nquiet_s = 0.5\n'
        )
        environment = os.environ | {
            "ISLET_STORE": str(store.root),
            "ISLET_SPOOL": str(folder / "spool"),
            "ISLET_PACS": str(folder / "pacs.toml"),
            "ISLET_DEVICE": "cpu",
            "ISLET_THREADS": "1",
            "LISTENER_PORT": str(listener),
        }
        with (
            (folder / "log").open("wb") as log,
            running(serve_command("127.0.0.1", port), serve_environment(environment), islet, log),
        ):
            yield Hospital(pacs, islet, environment, folder)


def until(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found


def store(port: int, called: str, files: list[Path]) -> None:
    command = ["storescu", "-aet", "CT1", "-aec", called, "127.0.0.1", str(port)]
    subprocess.run([*command, *map(str, files)], check=True, timeout=30)


def segment_is(seg: Dataset, label: str, files: list[Path], wanted: np.ndarray) -> None:
    """The SEG's segment, read back slice by slice, is the known mask (Z, Y, X)."""
    read = highdicom.seg.Segmentation.from_dataset(seg)
    numbers = {s.SegmentLabel: s.SegmentNumber for s in seg.SegmentSequence}
    pixels = read.get_pixels_by_source_instance(
        [dcmread(path).SOPInstanceUID for path in files],
        segment_numbers=[numbers[label]],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(pixels[..., 0] > 0, wanted)


def contoured_as(plan: Dataset, series: str, name: str, wanted: np.ndarray) -> None:
    """The RTSTRUCT refers to the series, and outlines the mask (Z, Y, X) where it is."""
    frame = plan.ReferencedFrameOfReferenceSequence[0]
    assert frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID == (
        series
    )
    numbers = {roi.ROIName: roi.ROINumber for roi in plan.StructureSetROISequence}
    (roi,) = (r for r in plan.ROIContourSequence if r.ReferencedROINumber == numbers[name])
    points = np.concatenate(
        [np.reshape(c.ContourData, (-1, 3)).astype(float) for c in roi.ContourSequence]
    )
    x, y, z = (points[:, axis] for axis in range(3))
    volume, _ = boxes_ct()
    spacing, origin = volume.geometry.spacing, volume.geometry.origin
    inside = [np.flatnonzero(wanted.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    for found, where, step, start in zip((z, y, x), inside, spacing, reversed(origin), strict=True):
        indices = (found - start) / step
        assert abs(indices.min() - where[0]) <= 0.51
        assert abs(indices.max() - where[-1]) <= 0.51
    assert len(np.unique(np.round(z, 3))) == len(inside[0])


def ask(hospital: Hospital, path: str, body: dict | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(hospital.islet + path, data, kind), timeout=20
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_pushed_series_is_segmented_by_itself(hospital: Hospital, tmp_path: Path) -> None:
    def scout(ds: Dataset, _: int) -> None:
        ds.SeriesDescription = "Topogram 0.6"

    study = generate_uid()
    series, files = write_boxes(tmp_path / "ct", study)
    _, more = write_boxes(tmp_path / "scout", study, scout)
    store(hospital.pacs.dimse, hospital.pacs.aet, files + more)

    until(lambda: {"SEG", "RTSTRUCT", "SR"} <= set(hospital.pacs.results(study)))
    jobs = until(lambda: _ended(hospital, 2))

    assert sorted(job["state"] for job in jobs) == ["done", "failed"]
    (failed,) = (job for job in jobs if job["state"] == "failed")
    assert failed["error"]["code"] == "no_suitable_series"
    # Its own results have become stable too by now, and asked for nothing.
    time.sleep(2.5)
    assert len(_jobs(hospital)) == 2
    found = hospital.pacs.results(study)
    assert {modality: len(made) for modality, made in found.items()} == dict.fromkeys(
        ("SEG", "RTSTRUCT", "SR"), 1
    )
    segment_is(found["SEG"][0], "Pancreas tumor", files, truth() == 2)
    segment_is(found["SEG"][0], "Pancreas", files, (truth() == 1) | (truth() == 2))
    contoured_as(found["RTSTRUCT"][0], series, "kidney", truth() == 3)


def test_a_request_names_a_server_and_its_job_is_followed(hospital: Hospital) -> None:
    study = generate_uid()
    status, body = ask(hospital, "/v1/dicomweb", {"server": "main", "study": study})
    assert (status, body["kind"]) == (202, "dicomweb")
    ended = until(lambda: _of(hospital, body["id"]))
    assert ended["error"]["code"] == "no_suitable_series"
    status, body = ask(hospital, "/v1/dicomweb", {"server": "other", "study": study})
    assert (status, body["error"]["code"]) == (403, "server_not_allowed")
    assert ask(hospital, "/v1/dicomweb") == (200, {"servers": ["main"]})


def test_the_listener_takes_a_series_and_sends_its_results(
    hospital: Hospital, tmp_path: Path
) -> None:
    study = generate_uid()
    _, files = write_boxes(tmp_path / "ct", study)
    port = int(hospital.environment["LISTENER_PORT"])
    with listener(hospital, port):
        store(port, "ISLET", files)
        found = until(lambda: len(made := hospital.pacs.results(study)) == 3 and made)
    segment_is(found["SEG"][0], "Kidney", files, truth() == 3)
    assert found["SEG"][0].PatientID == dcmread(files[0]).PatientID


@contextmanager
def listener(hospital: Hospital, port: int) -> Iterator[None]:
    """``islet dimse`` as a process; it ends politely."""
    command = [sys.executable, "-m", "islet", "dimse", "--port", str(port)]
    process = subprocess.Popen(
        command, env=hospital.environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"ISLET listens at 127.0.0.1:{port}.\n"
        yield
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _jobs(hospital: Hospital) -> list[dict]:
    return ask(hospital, "/v1/jobs")[1]["jobs"]


def _ended(hospital: Hospital, count: int) -> list[dict]:
    ended = [job for job in _jobs(hospital) if job["state"] in ("done", "failed")]
    return ended if len(ended) == count else []


def _of(hospital: Hospital, id: str) -> dict | None:
    job = ask(hospital, f"/v1/jobs/{id}")[1]
    return job if job["state"] in ("done", "failed") else None
