"""The fine-tuning's table: three arms, equal steps, the same unseen cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import islet
from tests.training.tiny import loaded
from training.evaluate import Score
from training.pretraining import fine_tuned
from training.reproduce import arms, finetune
from training.reproduce.arms import Cohort


def test_the_table_compares_equal_steps_on_equal_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, Cohort, Path, bool]] = []
    styles: list[tuple[int, int, tuple[str, ...]]] = []

    def run(recipe: Any, made: Callable[[], Cohort], out: Path, **options: Any) -> arms.Scores:
        asked.append((recipe, made(), out, "initial" in options))
        dice = {"base": 0.3, "scratch": 0.4, "finetuned": 0.7}[out.name.partition("-")[0]]
        names = finetune.ORGANS
        return {"new": [Score(f"c{i}", n, dice + i / 100) for i in range(5) for n in names]}

    def phantoms(count: int, first: int, styled: tuple[str, ...], **_: Any) -> list[Any]:
        styles.append((count, first, styled))
        return [loaded()] * count

    monkeypatch.setattr(finetune, "run_arm", run)
    monkeypatch.setattr(finetune, "phantoms", phantoms)
    command = ["reproduce", "finetune", "-o", str(tmp_path), "--seeds", "2", "--steps", "50"]
    assert islet.main(command) == 0
    text = capsys.readouterr().out
    assert "| fine-tuned | 0.720 ± 0.014 | 0.720 ± 0.014 |" in text
    assert "| mean | +0.300 | +0.300 to +0.300 |" in text, "against training from scratch"
    assert "| mean | +0.400 | +0.400 to +0.400 |" in text, "against the model as it was"
    assert text.startswith("Phantoms, not patients: 12 of three scanners")
    assert (tmp_path / "finetune.png").exists()

    (base, _, _, _), (scratch, one, _, begun), (tuned, two, _, initial) = asked[:3]
    assert (begun, initial) == (False, True)
    assert tuned == fine_tuned(base)
    assert (base.steps, scratch.steps) == (50, 10)
    assert dataclasses.replace(tuned, optimizer=scratch.optimizer) == scratch
    assert scratch.optimizer == base.optimizer, "from scratch at the rate that suits it"
    assert one is two, "both learn from and are judged by the same cases"
    assert asked[0][1].tests == one.tests, "the model as it was is judged by them too"
    assert asked[3][0].seed == 1

    # No patient of one cohort is in another, and none of the new scanner was seen before.
    taken = [set(range(first, first + count)) for count, first, _ in styles]
    assert sum(map(len, taken)) == len(set().union(*taken))
    assert not set(styles[0][2]) & set(styles[1][2])
    assert styles[1][2] == styles[2][2]
