"""The trials at toy size; each can see what it looks for."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.trials import archives, damage, numerics
from benchmarks.trials.numerics import mean_dice
from benchmarks.trials.row import Row
from benchmarks.trials.show import show
from imaging.writers.nifti import write_nifti
from models.store import Store
from tests.serving.tiny_model import boxes_ct, publish


def test_damaged_files_are_refused_by_name_or_do_no_harm() -> None:
    rows = damage.trial(times=9)
    assert [row.lost for row in rows] == [0, 0, 0]
    assert "corrupt_model" in rows[0].figure
    assert "bad_case" in rows[1].figure
    assert "records_damaged" in rows[2].figure


def test_damage_without_a_code_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "in" / "file"
    path.parent.mkdir()
    path.write_bytes(b"whole")

    def use() -> bool:
        if path.read_bytes()[0] % 2:
            return True
        raise KeyError

    kinds = [lambda data, _: data.reverse(), lambda data, _: data.__setitem__(0, 98)]
    row = damage._damaged("any", path, 4, random.Random(1), use, kinds)
    assert (row.tried, row.lost) == (4, 2)
    assert "! KeyError" in row.figure


def test_the_same_ct_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store", behind=())
    publish(store, tmp_path)
    monkeypatch.setenv("ISLET_STORE", str(store.root))
    ct = tmp_path / "ct.nii.gz"
    write_nifti(boxes_ct()[0], ct)
    rows = numerics.trial([ct], repeats=3, torch=False)
    assert [row.lost for row in rows] == [0] * len(rows)
    assert rows[0].tried == 3
    assert rows[1].tried == len(numerics.THREADS)


def test_the_dice_counts_what_either_finds() -> None:
    a, b = np.zeros((2, 4, 4, 4), np.uint8)
    assert mean_dice(a, b) == 1
    a[:2], b[:2], b[3] = 1, 1, 2
    assert mean_dice(a, b) == pytest.approx(0.5)
    assert mean_dice(a, a) == 1


@pytest.mark.slow
def test_an_archive_that_misbehaves_has_a_code_and_loses_nothing(tmp_path: Path) -> None:
    kinds = (archives.half, archives.nothing, archives.garbled, archives.hangs_up)
    row = archives.trial(tmp_path, 4, 8, kinds)
    assert (row.tried, row.lost) == (4, 0)
    assert "pacs_error" in row.figure


def test_losses_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert show([Row("a", 2, 2, 0, "2 done")]) == 0
    assert show([Row("a", 2, 1, 1, "1 done")]) == 1
    assert "lost    1" in capsys.readouterr().out
