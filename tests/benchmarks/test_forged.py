"""Forged inputs: each gives its expected answer; the trial sees one that does not; the table."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import reliability
from benchmarks.trials.forged import trial
from benchmarks.trials.forged.case import Answer, Seen, fault
from benchmarks.trials.forged.catalogue import catalogue
from benchmarks.trials.forged.reading import MEMORY, read, read_all
from benchmarks.trials.row import Row
from models.store import Store
from serving.statuses import codes
from tests.serving.tiny_model import publish

# What takes over a tenth of a second to make or to read; the trial has all of them.
SLOW = (
    "00 slices",
    "00 texts",
    "000 empty",
    "000 columns",
    "000 groups",
    "000 members",
    "000 text",
    "MB",
    "MiB",
    "abdomen",
    "a bomb",
    "a CT ",
    "alone",
    "a file too many",
    "a label map",
    "a slice of NaN",
    "an MR",
    "million",
    "stored coronal",
    "stored sagittal",
    "stored upside",
    "turned by",
)
CASES = catalogue()
QUICK = [name for name in CASES if not any(words in name for words in SLOW)]


@pytest.mark.parametrize("name", QUICK)
def test_a_forged_input_gives_its_expected_answer(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    source = case.write(tmp_path)
    assert fault(case.expected, read(source, case.series, case.headers)) is None


def test_there_are_enough_of_every_family() -> None:
    counts = Counter(case.family for case in CASES.values())
    assert counts.keys() == {"nifti", "dicom", "zip", "ct"}
    assert min(counts.values()) >= 40
    assert len(QUICK) >= 200
    known = codes()
    for case in CASES.values():
        for code in (case.expected, case.served):
            assert not isinstance(code, str) or code in known


def test_the_same_bytes_are_made_every_time(tmp_path: Path) -> None:
    for number, name in enumerate(QUICK[::5]):
        folders = [tmp_path / f"{number}-{turn}" for turn in (0, 1)]
        for folder in folders:
            folder.mkdir()
            CASES[name].write(folder)
        once, again = (
            [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
            for folder in folders
        )
        assert once == again, name


# --- the trial sees what is broken

SOUND = Answer((5, 6, 7), (2.5, 0.9, 0.7), (0.0, 9.0), ("odd",), nothing_here=False)
SEEN = Seen(None, (5, 6, 7), (2.5, 0.9, 0.7), (0.0, 9.0), ("It is odd.",))


def test_what_is_as_expected_is_no_fault() -> None:
    assert fault(SOUND, SEEN) is None
    served = replace(SEEN, hu=None, warnings=("It is odd.", "A model's."), nothing_here=False)
    assert fault(SOUND, served) is None
    assert fault("bad_shape", Seen("bad_shape")) is None


@pytest.mark.parametrize(
    ("expected", "seen", "wrong"),
    [
        ("bad_shape", SEEN, "answered, not bad_shape"),
        ("bad_shape", Seen("bad_voxels"), "bad_voxels"),
        (SOUND, Seen("bad_shape"), "not answered"),
        (SOUND, replace(SEEN, shape=(5, 6, 8)), "shape"),
        (SOUND, replace(SEEN, spacing=(2.5, 0.9, 0.71)), "spacing"),
        (SOUND, replace(SEEN, hu=(0.0, 10.0)), "HU"),
        (SOUND, replace(SEEN, hu=(0.0, float("nan"))), "HU"),
        (SOUND, replace(SEEN, warnings=()), "warns"),
        (SOUND, replace(SEEN, warnings=("It is odd.", "Another.")), "warns"),
        (SOUND, replace(SEEN, nothing_here=True), "nothing_here"),
    ],
)
def test_what_is_wrong_is_told(expected: str | Answer, seen: Seen, wrong: str) -> None:
    assert wrong in str(fault(expected, seen))


class Deadly(type(Path())):  # type: ignore[misc]
    """A path that ends the process which looks at it."""

    def is_dir(self) -> bool:
        os._exit(7)


class Hungry(type(Path())):  # type: ignore[misc]
    """A path that takes more memory than there may be."""

    def is_dir(self) -> bool:
        return bool(bytearray(2 * MEMORY))


class Endless(type(Path())):  # type: ignore[misc]
    """A path that is never looked at to its end."""

    def is_dir(self) -> bool:
        while True:
            pass


def test_a_reader_that_dies_hangs_or_bloats_is_seen(tmp_path: Path) -> None:
    case = CASES["nifti: 5D of one frame"]
    sound = case.write(tmp_path)
    sources = [sound, Deadly(sound), Hungry(sound), Endless(sound)]
    found = [read.seen for read in read_all([(case, source) for source in sources], cpu_s=2)]
    assert fault(case.expected, found[0]) is None
    assert [seen.code for seen in found[1:]] == [
        "crashed: exit code 7",
        "crashed: MemoryError",
        f"crashed: exit code {-signal.SIGXCPU}",
    ]


@pytest.mark.e2e
@pytest.mark.slow
def test_the_trial_asks_a_real_service_and_loses_what_is_not_as_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "store", behind=())
    publish(store, tmp_path)
    monkeypatch.setenv("ISLET_STORE", str(store.root))
    right = [CASES["nifti: 5D of one frame"], CASES["dicom: no file"], CASES["zip: encrypted"]]
    right.append(CASES["dicom: a name of 60,000 letters"])
    wrong = replace(CASES["nifti: one row"], name="wrong", expected="bad_voxels")
    rows = trial(only=[*right, wrong])
    assert [(row.family, row.tried, row.lost) for row in rows] == [
        ("forged nifti", 4, 2),
        ("forged dicom", 4, 0),
        ("forged zip", 2, 0),
        ("forged, service after", 1, 0),
    ]
    assert capsys.readouterr().err.splitlines() == [
        "LOST wrong, read: bad_shape, not bad_voxels",
        "LOST wrong, served: bad_shape, not bad_voxels",
    ]


# --- the table


def test_the_table_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def sound(long: bool) -> list[Row]:
        asked.append(long)
        return [Row("files", 3, 3, 0, "2 s")]

    trials = {"sound": sound, "broken": lambda _: [Row("kills", 2, 1, 1, "a | b")]}
    monkeypatch.setattr(reliability, "TRIALS", trials)
    told = tmp_path / "new" / "table.json"
    monkeypatch.setattr(sys, "argv", ["reliability", "--long", "--json", str(told)])
    assert reliability.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "| family | tried | survived | lost | figure |",
        "| --- | --: | --: | --: | --- |",
        "| files | 3 | 3 | 0 | 2 s |",
        "| kills | 2 | 1 | 1 | a / b |",
        "| **all** | 5 | 4 | 1 |  |",
    ]
    assert json.loads(told.read_text())["rows"][1] == vars(trials["broken"](False)[0])
    monkeypatch.setattr(sys, "argv", ["reliability", "--only", "sound"])
    assert reliability.main() == 0
    assert asked == [True, False]


def test_rows_add_up() -> None:
    with pytest.raises(ValueError, match="3 tried"):
        Row("files", 3, 1, 1, "")
