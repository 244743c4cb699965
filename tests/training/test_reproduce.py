"""The tables: what is printed follows from the scores, and nothing is trained twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imaging.errors import DataError
from tests.training.tiny import flat, loaded, volumetric, write_decathlon
from training.cases import Case
from training.datasets import open_dataset
from training.datasets.make import make_set
from training.evaluate import Score
from training.package import manifest_of
from training.recipes import recipe as named_recipe
from training.reproduce import arms, kits21, monet, partial
from training.reproduce.arms import Cohort, in_memory, run_arm
from training.reproduce.figure import draw
from training.reproduce.tables import Report, differences, markdown, mean_sd, values


def test_an_arm_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = flat(steps=2, patch=(1, 32, 32))
    cohort = Cohort([loaded(0)], {"test": [loaded(1)]})
    found = run_arm(recipe, lambda: cohort, tmp_path / "arm")
    assert [(s.case, s.structure) for s in found["test"]] == [("blocks-1", "kidney")]
    monkeypatch.setattr(arms, "fit", lambda *a, **k: pytest.fail("trained twice"))
    again = run_arm(recipe, lambda: pytest.fail("cases made again"), tmp_path / "arm")
    assert again == found
    with pytest.raises(DataError, match="scores of other settings"):
        run_arm(dataclasses.replace(recipe, seed=4), lambda: cohort, tmp_path / "arm")


def test_cases_on_disk_are_cached(tmp_path: Path) -> None:
    cases = open_dataset(write_decathlon(tmp_path / "data"))
    recipe = flat(steps=2, patch=(1, 32, 32))
    cohort = Cohort(cases[:1], {"test": cases[1:]})
    found = run_arm(recipe, lambda: cohort, tmp_path / "out" / "arm")
    assert [s.case for s in found["test"]] == ["blocks_1"]
    assert len(list((tmp_path / "out" / "cache").iterdir())) == 1


def test_text_of_a_table() -> None:
    assert (
        markdown(["", "a"], [["x", "1"], ["y", "2"]]) == "|  | a |\n|---|---|\n| x | 1 |\n| y | 2 |"
    )
    assert mean_sd([0.5, 1.0]) == "0.750 ± 0.250"
    scores = [Score("a", "kidney", 0.5), Score("a", "liver", 0.1), Score("b", "kidney", 0.7)]
    assert values(scores, "kidney") == [0.5, 0.7]


def test_differences_are_paired_and_corrected() -> None:
    a = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    b = [0.4, 0.5, 0.6, 0.7, 0.8, 0.85]
    line, same = differences([("up", a, b), ("none", a, a)]).splitlines()[2:]
    # Six pairs, all one way: p = 2 / 2**6, doubled for two comparisons.
    assert line == "| up | +0.100 | +0.100 to +0.100 | 0.062 |"
    assert same == "| none | +0.000 | +0.000 to +0.000 | 1 |"


def test_the_figure_has_a_bar_for_every_arm(tmp_path: Path) -> None:
    bars = {
        "kidney": {"one": (0.9, 0.1), "two": (0.4, 0.2)},
        "liver": {"one": (0, 0), "two": (0, 0)},
    }
    draw(Report("text", bars), "title", tmp_path / "figure.png")
    picture = np.asarray(Image.open(tmp_path / "figure.png").convert("RGB")).reshape(-1, 3)
    for colour in ((0, 114, 178), (230, 159, 0)):
        assert (picture == colour).all(1).sum() > 200


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Cohort, Path]]:
    """Trainings that end at once: MoNet, the unknown and the transfer are better by 0.2."""
    found: list[tuple[Any, Cohort, Path]] = []

    def run(recipe: Any, made: Callable[[], Cohort], out: Path, **_: Any) -> arms.Scores:
        cohort = made()
        found.append((recipe, cohort, out))
        good = (
            out.name in ("monet-0", "monet-1", "unknown-0", "unknown-1") or "transfer" in out.name
        )
        dice = 0.7 if good else 0.5
        names = (*recipe.outputs, "kidney_masses")
        return {
            place: [Score(f"c{i}", n, dice + i / 100, 0.0, dice) for i in range(6) for n in names]
            for place in cohort.tests
        }

    for room in (kits21, monet, partial):
        monkeypatch.setattr(room, "run_arm", run)
        monkeypatch.setattr(room, "phantoms", lambda count, *a, **k: [loaded()] * count)
    monkeypatch.setattr(monet, "sizes_and_times", lambda: "sizes")
    return found


def test_monets_table(asked: list[tuple[Any, Cohort, Path]], tmp_path: Path) -> None:
    text = monet.reproduce(tmp_path, "tiny", 2, 10).text
    assert text.startswith("Phantoms, not patients")
    assert "| MoNet | 0.74 ± 0.11 | 0.725 ± 0.017 | 0.70 ± 0.1 | 0.725 ± 0.017 |" in text
    assert "| MoNet - U-Net-64, out | +0.200 | +0.200 to +0.200 |" in text
    assert len(asked) == 2 * len(monet.NETS)
    first, again = asked[0][0], asked[4][0]
    assert (first.seed, again.seed) == (0, 1)
    assert (first.steps, first.optimizer.lr, first.options["prior"]) == (10, 2e-3, 0.02)
    paper = monet._short(named_recipe("monet"), None, 0)
    assert paper == named_recipe("monet"), "nothing is changed at the paper's scale"


def test_kits21s_table(asked: list[tuple[Any, Cohort, Path]], tmp_path: Path) -> None:
    text = kits21.reproduce(tmp_path, "tiny", 1, 10).text
    assert text.startswith("Phantoms, not patients")
    assert "| paper: transfer | 0.9513 | 0.7953 | 0.7663 | 0.9178 | 0.6901 | 0.6592 |" in text
    assert "| Dice masses | +0.200 | +0.200 to +0.200 |" in text
    assert [recipe.name for recipe, _, _ in asked] == [
        "mots-kits21",
        "kits21-transfer",
        "kits21-scratch",
    ]
    assert asked[1][0].steps == asked[2][0].steps == 10
    assert asked[1][1] is asked[2][1], "both learn from and are judged by the same cases"
    assert asked[0][1].tests == {}


def test_the_partial_labels_table(asked: list[tuple[Any, Cohort, Path]], tmp_path: Path) -> None:
    text = partial.reproduce(tmp_path, 2, 10).text
    assert "| spleen | +0.200 | +0.200 to +0.200 |" in text
    recipes = [recipe for recipe, _, _ in asked[:2]]
    assert [r.loss.unlabelled for r in recipes] == ["unknown", "background"]
    same = dataclasses.replace(recipes[1], loss=recipes[0].loss)
    assert same == recipes[0], "the arms differ in that alone"


def test_real_data_is_split_as_the_papers_do(
    asked: list[tuple[Any, Cohort, Path]], tmp_path: Path
) -> None:
    make_set("kits21", tmp_path / "kits", 6, 0, shape=(16, 24, 24))
    make_set("decathlon", tmp_path / "msd", 10, 1, shape=(16, 24, 24))
    make_set("decathlon", tmp_path / "other", 2, 2, shape=(16, 24, 24))
    data = [tmp_path / "kits", tmp_path / "msd"]
    assert kits21.reproduce(tmp_path / "a", "tiny", 1, 2, data).text.startswith("Real data")
    before, transfer = asked[0][1], asked[1][1]
    numbers = {kits21._number(c) for c in transfer.tests["test"] if isinstance(c, Case)}
    assert numbers == {0, 5}
    assert len(transfer.train) == 4
    assert len(before.train) == 14
    assert not set(map(id, before.train)) & set(map(id, transfer.tests["test"]))

    asked.clear()
    outside = [tmp_path / "other"]
    assert monet.reproduce(tmp_path / "b", "tiny", 1, 2, data[1:], outside).text.startswith("Real")
    cohort = asked[0][1]
    sizes = [len(cohort.train), len(cohort.validation), *(len(t) for t in cohort.tests.values())]
    assert sizes == [6, 1, 3, 2]
    with pytest.raises(DataError, match="both --data and --outside"):
        monet.reproduce(tmp_path / "c", "tiny", 1, 2, data)


def test_kits21_is_scored_over_its_annotators(tmp_path: Path) -> None:
    make_set("kits21", tmp_path / "kits", 1, 3, shape=(16, 24, 24))
    case = open_dataset(tmp_path / "kits")[0]
    recipe = volumetric(outputs=("kidney", "kidney_tumor", "kidney_cyst"))
    truth = in_memory(case).labels.array

    def perfect(patches: np.ndarray) -> np.ndarray:
        return np.zeros((len(patches), 4, *patches.shape[2:]), np.float32)

    found = kits21._hecs(case, manifest_of(recipe), perfect)
    assert [s.structure for s in found] == list(kits21.HECS)
    assert all(s.surface_dice is not None for s in found)
    # A model that finds nothing: right only where no annotator drew anything.
    kidney = (truth > 0).any()
    assert found[0].dice == (0.0 if kidney else 1.0)
