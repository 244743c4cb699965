"""Scores through serving's own prediction, of a model whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.onnxfile import read_manifest
from models.store import Store
from tests.serving.tiny_model import boxes_ct, publish
from training.cases import Loaded
from training.evaluate import Score, score_case, table
from training.package import onnx_scorer


def scores(tmp_path: Path, labels: np.ndarray, annotated: tuple[str, ...]) -> list[Score]:
    ct, _ = boxes_ct()
    model = publish(Store(tmp_path / "store", behind=()), tmp_path)
    case = Loaded("boxes", ct, ct.with_array(labels), annotated)
    return score_case(case, read_manifest(model.path), onnx_scorer(model.path))


def test_a_perfect_prediction_scores_one(tmp_path: Path) -> None:
    names = ("pancreas", "pancreas_tumor", "kidney")
    found = scores(tmp_path, boxes_ct()[1], names)
    assert found == [Score("boxes", name, 1.0) for name in names]


def test_a_structure_that_is_elsewhere_scores_nothing(tmp_path: Path) -> None:
    labels = boxes_ct()[1]
    moved = np.where(labels == 3, 0, labels).astype(np.uint8)
    moved[15:, :10, :10] = 3
    found = {s.structure: s.dice for s in scores(tmp_path, moved, ("pancreas", "kidney"))}
    assert found == {"pancreas": 1.0, "kidney": 0.0}


def test_only_annotated_structures_are_scored_lesions_inside_their_organ(tmp_path: Path) -> None:
    labels = boxes_ct()[1]
    labels[labels == 2] = 1
    found = scores(tmp_path, labels, ("pancreas", "liver"))
    # The model finds a tumor; these labels call it pancreas.
    assert found == [Score("boxes", "pancreas", 1.0)]


def test_unknown_voxels_are_not_judged(tmp_path: Path) -> None:
    """Labels that leak become unknown (``islet data agree``), and a score says nothing of them."""
    labels = boxes_ct()[1]
    kidney = np.argwhere(labels == 3)
    middle = kidney[:, 0] < np.median(kidney[:, 0])
    labels[tuple(kidney[middle].T)] = 255
    wrong = np.where(labels == 255, 0, labels).astype(np.uint8)
    names = ("pancreas", "kidney")
    assert [s.dice for s in scores(tmp_path / "a", labels, names)] == [1.0, 1.0]
    assert scores(tmp_path / "b", wrong, names)[1].dice < 0.8


def test_the_table_leaves_a_dash_where_nothing_was_scored() -> None:
    made = [Score("a", "liver", 0.5), Score("a", "kidney", 0.25), Score("b", "liver", 1.0)]
    assert table(made).splitlines() == [
        "| case | liver | kidney |",
        "|---|---|---|",
        "| a | 0.500 | 0.250 |",
        "| b | 1.000 | – |",
        "| **mean** | 0.750 | 0.250 |",
    ]
