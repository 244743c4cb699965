"""What fuzzing found stays found, and the fuzzer's own judgement is right."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest

from benchmarks.trials.fuzzing import campaign, trial
from benchmarks.trials.fuzzing.child import Crashes, signature
from benchmarks.trials.fuzzing.targets import READ, TARGETS, Target, other_json, verdict
from imaging.errors import BadShape

# Bytes that once crashed a reader, in a folder of its target's name.
REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*/*.bin"))
ANSWERS = {
    "nifti": [READ] * 11,
    "dicom": [READ] * 6,
    "archive": [READ] * 3
    + ["unsupported_format", "unsafe_archive", "empty_input", "unsafe_archive"],
    "manifest": [READ] * 2,
    "model": [READ, "bad_manifest", "model_refused", "model_refused", "bad_manifest"],
}


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_what_once_crashed_is_read_or_refused(path: Path) -> None:
    verdict(TARGETS[path.parent.name], path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzer_begins_with_files_that_are_read(name: str) -> None:
    target = TARGETS[name]
    assert [verdict(target, seed) for seed in target.seeds()] == ANSWERS[name]
    assert target.seeds() == target.seeds()


def test_json_is_changed_in_one_place_and_stays_json() -> None:
    seed = TARGETS["manifest"].seeds()[1]
    made = {other_json(seed, random.Random(number)) for number in range(60)}
    assert len(made) > 50
    for data in made:
        json.loads(data)
        verdict(TARGETS["manifest"], data)
    with pytest.raises(ValueError, match="Expecting"):
        other_json(b"{", random.Random(0))


def _picky(data: bytes) -> None:
    """Refuses what is short, and falls over one pair of bytes."""
    if len(data) < 2:
        raise BadShape("Too short; send more.")
    if b"\xff\x00" in data:
        raise KeyError("a reader must not say so")


def test_a_crash_is_told_from_a_refusal_and_made_small(tmp_path: Path) -> None:
    broken = Target(_picky, list)
    assert verdict(broken, b"ab") == READ
    assert verdict(broken, b"") == "bad_shape"
    crashes = Crashes(tmp_path, lambda data: verdict(broken, data))
    for data in (b"", b"ab", b"abc\xff\x00def" * 9, b"\xff\x00"):
        crashes.judge(data)
    assert crashes.seen == {"KeyError in test_fuzzing.py:_picky": 2}
    assert [path.read_bytes() for path in tmp_path.glob("*.bin")] == [b"\xff\x00"]
    assert signature(lambda _: None, b"") is None


def test_a_row_counts_crashes_as_lost() -> None:
    row = campaign.Campaign(100, {"KeyError in a": 2, "over 10 s": 1}, 40).row("nifti")
    assert (row.tried, row.survived, row.lost) == (100, 97, 3)
    assert "2 kinds of crash" in row.figure


def test_without_atheris_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="pip install atheris"):
        trial(1)
