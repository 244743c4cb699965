"""Models swapped under a service that answers: no request fails, none gets half of each."""

from __future__ import annotations

import gzip
import io
import json
import os
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME, values
from models.store import Store
from serving.process import free_port, running, serve_command, serve_environment
from tests.serving.tiny_model import CENTRES, boxes_ct, publish

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

REQUESTS = 200
CLIENTS = 8
MOVES_EVERY_S = 0.2

# The boxes of the CT under other names in each version.
VERSIONS = (
    {"pancreas": "pancreas", "pancreas_tumor": "pancreas_tumor", "kidney": "kidney"},
    {"pancreas": "liver", "pancreas_tumor": "liver_tumor", "kidney": "spleen"},
    {"pancreas": "stomach", "pancreas_tumor": "colon", "kidney": "pancreas"},
)


def _centres(names: dict[str, str]) -> dict[str, float]:
    return {names.get(box, box): hu for box, hu in CENTRES.items()}


def _truth(names: dict[str, str]) -> NDArray[np.uint8]:
    """The label map that a version gives."""
    boxes = boxes_ct()[1]
    made = np.zeros_like(boxes)
    for box, name in names.items():
        made[boxes == BY_NAME[box].value] = BY_NAME[name].value
    return made


@dataclass(frozen=True)
class Served:
    url: str
    ct: bytes
    third: bytes
    truths: dict[str, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service of two workers whose store holds two of the three versions."""
    folder = tmp_path_factory.mktemp("swap")
    store, elsewhere = (Store(folder / name, behind=()) for name in ("store", "elsewhere"))
    truths, third = {}, b""
    for names in VERSIONS:
        model = publish(elsewhere, folder, "swap", centres=_centres(names))
        truths[model.sha256] = _truth(names)
        third = model.path.read_bytes()
        if len(truths) < len(VERSIONS):
            store.publish(model.path)
    write_nifti(boxes_ct()[0], folder / "ct.nii.gz")
    environment = os.environ | {
        "ISLET_STORE": str(store.root),
        "ISLET_SPOOL": str(folder / "spool"),
        "ISLET_MODEL": "swap",
        "ISLET_WORKERS": "2",
        "ISLET_THREADS": "1",
    }
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        (folder / "log").open("wb") as log,
        running(serve_command("127.0.0.1", port), serve_environment(environment), url, log),
    ):
        yield Served(url, (folder / "ct.nii.gz").read_bytes(), third, truths)


class Mover(threading.Thread):
    """Moves the alias from version to version, and publishes the third one on the way."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self._served = served
        self.enough = threading.Event()
        self.answers: list[int] = []

    def run(self) -> None:
        with httpx.Client(base_url=self._served.url, timeout=60) as client:
            turn = 0
            while not self.enough.wait(MOVES_EVERY_S):
                if turn == 5:
                    new = client.post("/v1/models?alias=live", content=self._served.third)
                    self.answers.append(new.status_code)
                there = 2 if turn < 5 else 3
                alias = "/v1/models/swap/aliases/live"
                moved = client.put(alias, json={"version": turn % there + 1})
                self.answers.append(moved.status_code)
                turn += 1


def _voxels(data: bytes) -> NDArray[np.uint8]:
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data))
    return np.asarray(image.dataobj).T


def _segment(client: httpx.Client, served: Served) -> str:
    """The hash that one answer names, once the answer is what that model gives."""
    answer = client.post("/v1/segment", content=served.ct)
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        report = json.loads(archive.read("report.json"))
        labels = _voxels(archive.read("labels.nii.gz"))
        masks = {m: _voxels(archive.read(f"{m}.nii.gz")) for m in report["masks"]}
    made_by: str = report["model"]["sha256"]
    np.testing.assert_array_equal(labels, served.truths[made_by])
    assert masks
    for mask, voxels in masks.items():
        np.testing.assert_array_equal(voxels, np.isin(labels, values(mask)))
    return made_by


def test_no_request_fails_and_none_is_mixed_while_the_alias_moves(served: Served) -> None:
    mover = Mover(served)
    with httpx.Client(base_url=served.url, timeout=60) as client:
        mover.start()
        try:
            with ThreadPoolExecutor(CLIENTS) as pool:
                made_by = Counter(pool.map(lambda _: _segment(client, served), range(REQUESTS)))
        finally:
            mover.enough.set()
            mover.join(60)
    assert sum(made_by.values()) == REQUESTS
    assert set(made_by) == set(served.truths)
    assert mover.answers.count(201) == 1
    assert set(mover.answers) == {200, 201}
    assert len(mover.answers) > 10


def test_a_version_that_is_removed_is_not_found_by_the_next_request(served: Served) -> None:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        assert client.put("/v1/models/swap/aliases/live", json={"version": 2}).status_code == 200
        report = client.post("/v1/segment?outputs=report&model=swap@1", content=served.ct)
        assert report.json()["model"]["reference"] == "swap@1"
        assert client.delete("/v1/models/swap/versions/1").status_code == 204
        begun = time.monotonic()
        gone = client.post("/v1/segment?model=swap@1", content=served.ct)
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
        assert time.monotonic() - begun < 5
        assert client.post("/v1/segment", content=served.ct).status_code == 200
