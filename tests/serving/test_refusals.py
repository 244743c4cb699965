"""Every faulty DICOM series of the imaging tests, sent over HTTP: 4xx, its code, nothing left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imaging.errors import InputError
from tests.imaging.dicom_files import Edit, stored_values, write_series
from tests.imaging.test_dicom import REFUSALS
from tests.serving.test_api import Service, error_of, service  # noqa: F401 - a fixture


def as_form(paths: list[Path]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("ct", (p.name, p.read_bytes())) for p in paths]


@pytest.mark.parametrize("name", REFUSALS)
def test_a_faulty_series_is_refused_with_its_code(
    service: Service,  # noqa: F811
    tmp_path: Path,
    name: str,
) -> None:
    edit: Edit
    kind: type[InputError]
    edit, kind, said = REFUSALS[name]
    files = write_series(tmp_path / "series", stored_values(), edit=edit)
    answer = service.client.post("/v1/segment", files=as_form(files))
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (422, kind.code)
    assert all(words in error["message"] for words in said)


def test_of_several_series_one_can_be_chosen(
    service: Service,  # noqa: F811
    tmp_path: Path,
) -> None:
    stored = np.full((5, 40, 48), 1024, np.uint16)
    uids = ["1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"]
    files = [
        path
        for n, uid in enumerate(uids)
        for path in write_series(tmp_path / str(n), stored[: 4 + n], series=uid)
    ]
    error = error_of(service.client.post("/v1/segment", files=as_form(files)))
    assert error["code"] == "several_series"
    assert all(uid in error["message"] for uid in uids)
    url = f"/v1/segment?output=json&series={uids[1]}"
    report = service.client.post(url, files=as_form(files)).json()
    assert report["input"]["shape"] == [5, 40, 48]
    assert report["input"]["format"] == "dicom"
