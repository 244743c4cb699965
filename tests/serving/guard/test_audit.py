"""The audit log: lines that are whole, survive rotation and hold no patient."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from imaging.errors import BadParameter
from serving.guard.audit import AuditLog, line_of
from tests.serving.guard.apps import lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_only_what_has_the_form_of_a_fact_is_written() -> None:
    job, sha = "0" * 32, "a" * 64
    good = {"route": "/v1/jobs/{id}", "code": "job_not_found", "job": job, "model": sha}
    assert line_of(good, "GET", status=404) == good | {"method": "GET", "status": 404}
    assert line_of({"model": "starter@6", "server": "pacs-1"}, "GET") == {
        "method": "GET",
        "model": "starter@6",
        "server": "pacs-1",
    }
    bad = {
        "route": "/v1/studies/Doe^Jane",
        "code": "Doe",
        "job": "Doe",
        "model": "DOE^JANE",
        "server": "Doe Jane",
        "patient": "Doe",
    }
    assert line_of(bad, "DOE^JANE") == {"method": "other"}
    assert line_of({"job": 3, "code": None, "route": "/x\n"}, "GET") == {"method": "GET"}  # type: ignore[dict-item]


def test_a_line_cannot_be_broken_out_of(path: Path) -> None:
    log = AuditLog(path)
    log.write({"subject": 'a"\n{"subject": "forged"}', "address": "\u2028\x1b[31m"})
    log.close()
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().isascii()
    assert lines(path) == [{"subject": 'a"\n{"subject": "forged"}', "address": "\u2028\x1b[31m"}]


def test_a_log_that_was_moved_begins_anew(path: Path) -> None:
    log = AuditLog(path)
    log.write({"n": 1})
    path.rename(path.with_suffix(".1"))
    log.write({"n": 2})
    path.unlink()
    log.write({"n": 3})
    # As `copytruncate` does.
    log.write({"n": 4})
    os.truncate(path, 0)
    log.write({"n": 5})
    log.close()
    assert lines(path.with_suffix(".1")) == [{"n": 1}]
    assert lines(path) == [{"n": 5}]
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_several_writers_share_a_file(path: Path) -> None:
    def write(who: int) -> None:
        log = AuditLog(path)
        for number in range(200):
            log.write({"who": who, "n": number, "long": "x" * 500})
        log.close()

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(line["who"], line["n"]) for line in lines(path)]
    assert sorted(found) == [(who, n) for who in range(4) for n in range(200)]


def test_a_log_that_cannot_be_written_is_loud_and_stops_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog(path)
    folder = path.parent
    path.unlink()
    folder.rmdir()
    log.write({"n": 1})
    assert "missing in the audit log" in caplog.text
    folder.mkdir()
    log.write({"n": 2})
    log.close()
    assert lines(path) == [{"n": 2}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(Path("/dev/full"))
    log.write({"n": 1})
    log.close()
    assert "No space left" in caplog.text


def test_a_log_that_cannot_be_opened_stops_the_start(path: Path) -> None:
    with pytest.raises(BadParameter, match=r"audit\.jsonl cannot be written"):
        AuditLog(path / "audit.jsonl")


def test_a_line_is_json_of_one_line(path: Path) -> None:
    log = AuditLog(path)
    log.write({"a": None, "b": 0.5})
    log.close()
    assert json.loads(path.read_text()) == {"a": None, "b": 0.5}
    assert path.read_text().endswith("\n")
