"""The DIMSE listener and the sending side, with dcmtk's programs at the other end."""

from __future__ import annotations

import argparse
import gc
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from imaging.errors import BadParameter, PacsError, ServiceFailed
from imaging.read import read_volume
from serving.jobs.jobs import Jobs
from serving.jobs.record import Job
from serving.pacs.commands import dimse
from serving.pacs.config import Listener, Pacs, Peer
from serving.pacs.listener import listening
from serving.pacs.peers import send
from serving.pacs.tls import Tls
from serving.process import free_port
from serving.settings import Settings
from tests.imaging.dicom_files import write_enhanced
from tests.serving.pacs.orthanc import certificate, needs
from tests.serving.pacs.scenes import write_boxes

LISTENER = Listener(("CT1",), send_to="archive", quiet_s=0.3)
PACS = Pacs(peers={"archive": Peer("archive", "ARCHIVE", "127.0.0.1", 104)}, listener=LISTENER)


# pynetdicom leaves the socket of a connection that failed to the garbage collector.
LEFT_SOCKET = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(spool=tmp_path / "spool", workers=0)


@contextmanager
def islet(settings: Settings, pacs: Pacs = PACS) -> Iterator[int]:
    assert pacs.listener is not None
    with listening(settings, pacs, pacs.listener, "ISLET", "127.0.0.1", 0) as port:
        yield port


def storescu(port: int, files: list[Path], *options: str, aet: str = "CT1") -> int:
    needs("storescu")
    command = ["storescu", "-aet", aet, "-aec", "ISLET", *options, "127.0.0.1", str(port)]
    return subprocess.run([*command, *map(str, files)], capture_output=True, timeout=20).returncode


def until(look: Callable[[], Any], seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def jobs_of(settings: Settings) -> list[Job]:
    jobs = Jobs(settings)
    try:
        return jobs.list()
    finally:
        jobs.close()


def staged(settings: Settings) -> list[Path]:
    return list((settings.spool / "staging").iterdir())


def test_a_series_over_several_associations_is_one_job(settings: Settings, tmp_path: Path) -> None:
    series, files = write_boxes(tmp_path / "ct", generate_uid())
    patient = replace(PACS, listener=replace(LISTENER, quiet_s=2.0))
    with islet(settings, patient) as port:
        for part in (files[:7], files[7:], files[:3]):
            assert storescu(port, part) == 0
        (job,) = until(lambda: jobs_of(settings))
    assert (job.kind, job.owner, job.request["peer"]) == ("dimse", "dimse:CT1", "archive")
    assert (job.request["series"], job.request["aet"]) == (series, "ISLET")
    folder = settings.spool / "jobs" / job.id / "input"
    assert len(list(folder.iterdir())) == len(files)
    np.testing.assert_array_equal(read_volume(folder).array, read_volume(tmp_path / "ct").array)
    assert staged(settings) == []


def test_two_series_in_one_association_are_two_jobs_and_a_scout_is_none(
    settings: Settings, tmp_path: Path
) -> None:
    def scout(ds: Dataset, _: int) -> None:
        ds.SeriesDescription = "Topogram"

    study = generate_uid()
    first, files = write_boxes(tmp_path / "a", study)
    second, more = write_boxes(tmp_path / "b", study)
    _, left = write_boxes(tmp_path / "c", study, scout)
    with islet(settings) as port:
        assert storescu(port, files + more + left) == 0
        found = until(lambda: len(jobs_of(settings)) == 2 and jobs_of(settings))
        assert until(lambda: not staged(settings))
    assert {job.request["series"] for job in found} == {first, second}


def test_who_is_not_allowed_is_refused(settings: Settings, tmp_path: Path) -> None:
    _, files = write_boxes(tmp_path / "ct", generate_uid())
    with islet(settings) as port:
        assert storescu(port, files, aet="CT2") != 0
        assert storescu(port, files, "-aec", "OTHER") != 0
        needs("echoscu")
        echo = ["echoscu", "-aet", "CT1", "-aec", "ISLET", "127.0.0.1", str(port)]
        assert subprocess.run(echo, timeout=10).returncode == 0
    assert jobs_of(settings) == []


def test_what_is_no_ct_is_not_taken(settings: Settings, tmp_path: Path) -> None:
    def mr(ds: Dataset, _: int) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        ds.Modality = "MR"

    _, files = write_boxes(tmp_path / "ct", generate_uid(), mr)
    with islet(settings) as port:
        assert storescu(port, files) != 0
    assert jobs_of(settings) == []


def test_a_series_over_the_limits_is_refused_and_no_part_of_it_becomes_a_job(
    settings: Settings, tmp_path: Path
) -> None:
    _, files = write_boxes(tmp_path / "ct", generate_uid())
    small = replace(settings, limits=replace(settings.limits, max_files=18))
    with islet(small) as port:
        storescu(port, files, "-nh")
        assert until(lambda: not staged(settings))
    assert jobs_of(settings) == []


def test_an_association_that_breaks_off_leaves_no_job(settings: Settings, tmp_path: Path) -> None:
    from pynetdicom import AE

    _, files = write_boxes(tmp_path / "ct", generate_uid())
    with islet(settings) as port:
        entity = AE("CT1")
        first = dcmread(files[0])
        entity.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
        association = entity.associate("127.0.0.1", port, ae_title="ISLET")
        for path in files[:18]:
            assert association.send_c_store(dcmread(path)).Status == 0
        association.abort()
        assert until(lambda: not staged(settings))
        assert jobs_of(settings) == []
        # Sent again as a whole, it is one.
        assert storescu(port, files) == 0
        assert until(lambda: len(jobs_of(settings)) == 1)


def test_a_full_queue_delays_a_series_and_loses_none(settings: Settings, tmp_path: Path) -> None:
    _, files = write_boxes(tmp_path / "a", generate_uid())
    second, more = write_boxes(tmp_path / "b", generate_uid())
    jobs = Jobs(replace(settings, queue=1))
    with islet(replace(settings, queue=1)) as port:
        assert storescu(port, files) == 0
        (job,) = until(jobs.list)
        assert storescu(port, more) == 0
        time.sleep(1.0)
        assert len(jobs.list()) == 1
        jobs.cancel(job.id)
        assert until(lambda: [j for j in jobs.list() if j.request["series"] == second])
    jobs.close()


def test_what_came_whole_is_handed_on_when_the_listener_stops(
    settings: Settings, tmp_path: Path
) -> None:
    _, files = write_boxes(tmp_path / "ct", generate_uid())
    slow = replace(PACS, listener=replace(LISTENER, quiet_s=60.0))
    with islet(settings, slow) as port:
        assert storescu(port, files) == 0
    assert len(jobs_of(settings)) == 1
    assert not list(settings.spool.glob("dimse-*"))


def test_an_enhanced_ct_is_counted_by_its_frames(settings: Settings, tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "ct.dcm", np.zeros((16, 8, 10), np.uint16))
    with islet(settings) as port:
        assert storescu(port, [path], "-R") == 0
        assert until(lambda: len(jobs_of(settings)) == 1)


@LEFT_SOCKET
def test_tls_lets_in_who_shows_a_certificate(settings: Settings, tmp_path: Path) -> None:
    needs("openssl")
    mine, key = certificate(tmp_path)
    tls = Tls(ca=mine, certificate=mine, key=key)
    _, files = write_boxes(tmp_path / "ct", generate_uid())
    with islet(settings, replace(PACS, listener=replace(LISTENER, tls=tls))) as port:
        here = Peer("islet", "ISLET", "127.0.0.1", port, tls, timeout_s=5.0)
        send(here, "CT1", {"a": files[0]}, lambda step, part: None)
        for wrong in (None, Tls(ca=mine)):
            other = replace(here, tls=wrong, timeout_s=1.0)
            with pytest.raises(PacsError, match="islet does not answer"):
                send(other, "CT1", {"a": files[0]}, lambda step, part: None)
    gc.collect()


@LEFT_SOCKET
def test_a_port_that_is_taken_is_named(settings: Settings) -> None:
    with (
        islet(settings) as port,
        pytest.raises(ServiceFailed, match=str(port)),
        listening(settings, PACS, LISTENER, "ISLET", "127.0.0.1", port),
    ):
        pass
    gc.collect()


@LEFT_SOCKET
def test_sending_names_who_does_not_answer(tmp_path: Path) -> None:
    _, files = write_boxes(tmp_path / "ct", generate_uid())
    gone = Peer("archive", "ARCHIVE", "127.0.0.1", free_port(), timeout_s=1.0)
    with pytest.raises(PacsError, match="archive does not answer"):
        send(gone, "ISLET", {"a": files[0]}, lambda step, part: None)
    gc.collect()


def test_sending_names_what_was_not_taken(settings: Settings, tmp_path: Path) -> None:
    """The listener stands for a peer here: it takes CT, and MR not."""

    def mr(ds: Dataset, _: int) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"

    _, files = write_boxes(tmp_path / "ct", generate_uid())
    _, other = write_boxes(tmp_path / "mr", generate_uid(), mr)
    with islet(settings) as port:
        here = Peer("islet", "ISLET", "127.0.0.1", port)
        with pytest.raises(PacsError, match=r"1 of 2 objects: b \(it takes no such") as caught:
            send(here, "CT1", {"a": files[0], "b": other[0]}, lambda step, part: None)
        assert caught.value.details["stored"] == [dcmread(files[0]).SOPInstanceUID]
        with pytest.raises(PacsError, match="islet refuses the association"):
            send(here, "CT9", {"a": files[0]}, lambda step, part: None)


def test_the_command_needs_to_know_who_may_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISLET_PACS", raising=False)
    monkeypatch.setenv("ISLET_SPOOL", str(tmp_path / "spool"))
    asked = argparse.Namespace(aet="ISLET", host="127.0.0.1", port=0)
    with pytest.raises(BadParameter, match=r"add \[listener\] with callers"):
        dimse(asked)
    with pytest.raises(BadParameter, match="no application entity title"):
        dimse(argparse.Namespace(aet="A" * 17, host="127.0.0.1", port=0))
