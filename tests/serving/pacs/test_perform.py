"""Jobs that end in an archive, against a real Orthanc."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from imaging.errors import (
    Cancelled,
    InputTooLarge,
    NoSuitableSeries,
    PacsError,
    SeriesNotFound,
    ServerNotAllowed,
)
from models.store import Store
from serving.engines import Engines
from serving.jobs.record import Job, State
from serving.jobs.task import Done, Task
from serving.options import Options
from serving.pacs.perform import perform_dicomweb
from serving.settings import Settings
from tests.serving.pacs.orthanc import Orthanc, orthanc
from tests.serving.pacs.scenes import truth, write_boxes
from tests.serving.tiny_model import publish

OPTIONS = Options(device="cpu", outputs=("seg", "rtstruct", "sr"))


@dataclass(frozen=True)
class House:
    """A PACS, and a service that knows it as ``main``."""

    pacs: Orthanc
    settings: Settings
    engines: Engines
    folder: Path

    def task(self, id: str = "0" * 32, **asked: Any) -> Task:
        request = {"server": "main", "series": None, "rules": True, "store": "main"}
        request |= {"options": OPTIONS.to_json()} | asked
        folder = self.folder / generate_uid()
        folder.mkdir()
        job = Job(id, "dicomweb", request, "local", 10, State.RUNNING, 0.0)
        return Task(job, folder, self.settings, self.engines, lambda step, part: None)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("pacs")
    store = Store(folder / "store", behind=())
    publish(store, folder)
    with orthanc(folder / "orthanc") as pacs:
        path = folder / "pacs.toml"
        path.write_text(f'[servers.main]\nurl = "{pacs.dicomweb}"\n')
        yield House(pacs, Settings(device="cpu", pacs=path), Engines(store, 1), folder)


def results(done: Done) -> dict[str, bytes]:
    return dict(done.files)


def stored_series(pacs: Orthanc, study: str, modality: str) -> list[Dataset]:
    return pacs.results(study).get(modality, [])


def scout(ds: Dataset, index: int) -> None:
    ds.SeriesDescription = "Scout a.p."


def test_a_study_is_fetched_segmented_and_stored(house: House, tmp_path: Path) -> None:
    study = generate_uid()
    series, files = write_boxes(tmp_path / "ct", study)
    other, more = write_boxes(tmp_path / "scout", study, scout)
    house.pacs.send(files + more)
    steps: list[str] = []
    task = house.task(study=study)
    task = replace(task, progress=lambda step, part: steps.append(step))

    done = perform_dicomweb(task)
    made = results(done)

    said = done.report["pacs"]
    assert json.loads(made["report.json"])["pacs"] == said
    assert said["series"] == series
    assert said["rejected"] == [{"series": other, "rule": "description"}]
    assert said["stored_on"] == "main"
    assert {"find", "fetch", "network", "store"} <= set(steps)
    assert list(made) == [
        *("segmentation.dcm", "structures.dcm", "report.dcm", "preview.png", "report.json")
    ]
    uids = []
    for modality, name in (("SEG", "segmentation"), ("RTSTRUCT", "structures"), ("SR", "report")):
        (there,) = stored_series(house.pacs, study, modality)
        assert there.SOPInstanceUID == dcmread(BytesIO(made[f"{name}.dcm"])).SOPInstanceUID
        uids.append(there.SOPInstanceUID)
    assert said["stored"] == uids
    # What was fetched does not stay.
    assert not (task.folder / "fetched").exists()


def test_the_stored_segmentation_is_the_known_one_and_the_report_refers_to_it(
    house: House, tmp_path: Path
) -> None:
    study = generate_uid()
    _, files = write_boxes(tmp_path / "ct", study)
    house.pacs.send(files)
    results(perform_dicomweb(house.task("1" * 32, study=study)))

    (seg,) = stored_series(house.pacs, study, "SEG")
    (report,) = stored_series(house.pacs, study, "SR")
    read = highdicom.seg.Segmentation.from_dataset(seg)
    numbers = {s.SegmentLabel: s.SegmentNumber for s in seg.SegmentSequence}
    images = sorted((dcmread(path) for path in files), key=lambda ds: ds.InstanceNumber)
    pixels = read.get_pixels_by_source_instance(
        [ds.SOPInstanceUID for ds in images],
        segment_numbers=[numbers["Pancreas tumor"]],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(pixels[..., 0] > 0, truth() == 2)
    referred = {
        item.ReferencedSOPInstanceUID
        for series in report.CurrentRequestedProcedureEvidenceSequence
        for one in series.ReferencedSeriesSequence
        for item in one.ReferencedSOPSequence
    }
    assert seg.SOPInstanceUID in referred


def test_a_second_attempt_stores_no_second_objects_and_another_job_does(
    house: House, tmp_path: Path
) -> None:
    study = generate_uid()
    _, files = write_boxes(tmp_path / "ct", study)
    house.pacs.send(files)
    done = [perform_dicomweb(house.task(digit * 32, study=study)) for digit in "223"]
    for one in done:
        results(one)
    first, second, other = (one.report["pacs"]["stored"] for one in done)
    assert first == second
    there = house.pacs.results(study)
    assert {modality: len(made) for modality, made in there.items()} == dict.fromkeys(
        ("SEG", "RTSTRUCT", "SR"), 2
    )
    assert {ds.SOPInstanceUID for made in there.values() for ds in made} == {*first, *other}


def test_without_store_nothing_is_stored(house: House, tmp_path: Path) -> None:
    study = generate_uid()
    _, files = write_boxes(tmp_path / "ct", study)
    house.pacs.send(files)
    done = perform_dicomweb(house.task(study=study, store=None))
    results(done)
    assert done.report["pacs"]["stored"] == []
    assert stored_series(house.pacs, study, "SEG") == []


def test_a_study_without_a_suitable_series_says_why_and_no_description(
    house: House, tmp_path: Path
) -> None:
    study = generate_uid()
    series, files = write_boxes(tmp_path / "ct", study, scout)
    house.pacs.send(files)
    with pytest.raises(NoSuitableSeries, match=f"{series}: description") as caught:
        perform_dicomweb(house.task(study=study))
    assert caught.value.details["rejected"] == [{"series": series, "rule": "description"}]
    assert "Scout" not in json.dumps(caught.value.as_dict())


def test_a_named_series_needs_to_pass_the_rules_only_where_asked(
    house: House, tmp_path: Path
) -> None:
    study = generate_uid()
    series, files = write_boxes(tmp_path / "ct", study, scout)
    house.pacs.send(files)
    named = {"study": study, "series": series, "store": None}
    assert perform_dicomweb(house.task(**named, rules=False)).files
    with pytest.raises(NoSuitableSeries):
        perform_dicomweb(house.task(**named, rules=True))


def test_an_empty_study_an_unknown_series_and_an_unknown_server_are_named(house: House) -> None:
    with pytest.raises(NoSuitableSeries, match="study is empty"):
        perform_dicomweb(house.task(study="1.2.3"))
    with pytest.raises(SeriesNotFound, match=r"1\.2\.4"):
        perform_dicomweb(house.task(study="1.2.3", series="1.2.4", rules=False))
    with pytest.raises(ServerNotAllowed, match="there are: main"):
        perform_dicomweb(house.task(study="1.2.3", server="http://127.0.0.1"))


def test_a_series_over_the_limits_is_not_kept(house: House, tmp_path: Path) -> None:
    study = generate_uid()
    _, files = write_boxes(tmp_path / "ct", study)
    house.pacs.send(files)
    task = house.task(study=study)
    limits = task.settings.limits
    for small in (replace(limits, max_files=19), replace(limits, max_unpacked_bytes=50_000)):
        with pytest.raises(InputTooLarge):
            perform_dicomweb(replace(task, settings=replace(task.settings, limits=small)))


def test_cancelling_stops_the_fetch(house: House, tmp_path: Path) -> None:
    study = generate_uid()
    _, files = write_boxes(tmp_path / "ct", study)
    house.pacs.send(files)

    def stop(step: str, part: float) -> None:
        if step == "fetch":
            raise Cancelled("The job was cancelled.")

    with pytest.raises(Cancelled):
        perform_dicomweb(replace(house.task(study=study), progress=stop))


def test_what_the_archive_refuses_is_named(house: House, tmp_path: Path) -> None:
    """The study that is stored into is not that of the objects: Orthanc refuses each."""
    from serving.pacs.archive import Archive
    from serving.pacs.config import load

    _, files = write_boxes(tmp_path / "ct", generate_uid())
    server = load(house.settings.pacs).server("main")
    with (
        Archive(server, house.settings.limits) as archive,
        pytest.raises(PacsError, match=r"did not take 2 of 2 objects: a\.dcm \(") as caught,
    ):
        archive.store("1.2.3", {"a.dcm": files[0], "b.dcm": files[1]}, lambda step, part: None)
    assert [f["file"] for f in caught.value.details["failed"]] == ["a.dcm", "b.dcm"]
    assert caught.value.details["stored"] == []
