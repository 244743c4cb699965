"""An archive's answer names other addresses, by every way there is; none of them is asked."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from imaging.errors import BadParameter, InputTooLarge, PacsError
from imaging.limits import DEFAULT_LIMITS
from serving.pacs.archive import Archive
from serving.pacs.config import Server
from serving.pacs.rules import Series
from serving.pacs.uids import check_uid
from tests.serving.pacs.test_archive import JSON, full, rude

UID = "1.2.3"


def _answer(trap: str) -> bytes:
    """A search's, header's and series' answer that points elsewhere wherever it can."""
    item = {
        "0020000E": {"vr": "UI", "Value": [UID]},
        "00080018": {"vr": "UI", "Value": [UID]},
        "00081190": {"vr": "UR", "Value": [f"{trap}/retrieve"]},
        "0008103E": {"vr": "LO", "BulkDataURI": f"{trap}/bulk"},
        "00200013": {"vr": "IS", "BulkDataURI": f"{trap}/number"},
        "7FE00010": {"vr": "OW", "BulkDataURI": f"{trap}/pixels"},
    }
    return json.dumps([item]).encode()


def test_no_address_in_an_answer_is_asked() -> None:
    with rude(full("200 OK", JSON, b"[]")) as (elsewhere, trapped):
        body = _answer(elsewhere.url)
        headers = (f"Location: {elsewhere.url}/next", f"Link: <{elsewhere.url}/next>; rel=next")
        with rude(full("200 OK", JSON, body, *headers, f"Refresh: 0; {elsewhere.url}")) as (
            server,
            asked,
        ):
            with Archive(server, DEFAULT_LIMITS) as archive:
                (series,) = archive.series(UID)
                with suppress(PacsError):
                    archive.described(UID, series)
            assert len(asked) >= 2
    assert trapped == []


def test_an_instance_may_not_name_another_address_for_its_pixels(
    tmp_path: Path,
) -> None:
    with rude(full("200 OK", JSON, b"[]")) as (elsewhere, trapped):
        kind = f"multipart/related; type=application/dicom; boundary={elsewhere.url}"
        part = b"--b0\r\nContent-Type: application/dicom\r\nContent-Location: "
        body = part + f"{elsewhere.url}/instance\r\n\r\n--b0--".encode()
        with (
            rude(full("200 OK", kind, body)) as (server, _),
            Archive(server, DEFAULT_LIMITS) as archive,
            pytest.raises(PacsError),
        ):
            archive.fetch(UID, Series(UID, instances=1), tmp_path, _untold)
    assert trapped == []


@pytest.mark.parametrize(
    "uid",
    ["1.2/../../x", "1.2?a=b", "1.2#", "//evil.example", "http://evil.example", "1.2\r\nX: y"],
)
def test_a_uid_is_no_part_of_an_address(uid: str) -> None:
    with pytest.raises(BadParameter):
        check_uid("study", uid)


def test_an_answer_that_inflates_without_end_is_cut() -> None:
    """A server that packs its answer although it was asked not to."""
    bomb = gzip.compress(gzip.compress(b" " * 2**28, compresslevel=1))
    answer = full("200 OK", JSON, bomb, "Content-Encoding: gzip, gzip")
    with rude(answer) as (server, _):
        patient = Server("main", server.url, timeout_s=30.0, transfer_s=30.0)
        tracemalloc.start()
        try:
            with pytest.raises((InputTooLarge, PacsError)), Archive(patient, DEFAULT_LIMITS) as a:
                a.series(UID)
            assert tracemalloc.get_traced_memory()[1] < 128 * 2**20
        finally:
            tracemalloc.stop()


def _untold(_step: str, _part: float) -> None:
    """Nobody waits for the progress."""
