"""The page of promises names tests that are there, and a broken promise is told from a kept one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.trials import promises as trials


def test_every_promise_names_tests_that_are_there() -> None:
    found = trials.promises()
    assert sorted(found) == list(range(1, len(found) + 1))
    assert len(found) >= 15


@pytest.mark.parametrize("by", ["", "`tests/not/there.py`"])
def test_a_promise_without_a_test_is_none(tmp_path: Path, by: str) -> None:
    page = tmp_path / "security.md"
    page.write_text(f"| | promise | shown by |\n|---|---|---|\n| 1 | All is well. | {by} |\n")
    with pytest.raises(ValueError, match="Promise 1"):
        trials.promises(page)


def test_a_promise_is_kept_where_its_tests_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    for name, body in (("kept", "assert True"), ("broken", "assert False")):
        (tmp_path / f"tests/test_{name}.py").write_text(f"def test_it():\n    {body}\n")
    page = tmp_path / "security.md"
    page.write_text(
        "| 1 | Kept. | `tests/test_kept.py` |\n"
        "| 2 | Broken. | `tests/test_kept.py`, `tests/test_broken.py` |\n"
    )
    monkeypatch.setattr(trials, "_ROOT", tmp_path)
    found = trials.promises(page)
    monkeypatch.setattr(trials, "promises", lambda: found)
    (row,) = trials.trial()
    assert (row.tried, row.survived, row.lost) == (2, 1, 1)
    assert row.figure == "1 tests of 2 files"
