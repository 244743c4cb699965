"""What a second opinion makes unknown, and what it leaves alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from imaging.errors import BadParameter
from imaging.volume import Volume
from models.labels import UNKNOWN
from tests.training.tiny import loaded, write_decathlon
from training.agreement import agreed, left_out, table, write_agreed
from training.cases import Loaded, load
from training.datasets import open_dataset

PANCREAS, KIDNEY = 1, 3


def moved(labels: np.ndarray, voxels: int) -> np.ndarray:
    return np.roll(labels, voxels, axis=2)


def test_an_edge_a_voxel_off_is_no_disagreement() -> None:
    case = loaded()
    labels, found = agreed(case, moved(case.labels.array, 1), edge_mm=2.6)
    assert np.array_equal(labels, case.labels.array)
    assert {one.structure for one in found} == {"pancreas", "kidney"}
    assert all(0.7 < one.dice < 1 and one.unknown_ml == 0 for one in found)


def test_a_leak_and_a_hole_become_unknown_and_nothing_else() -> None:
    case = loaded()
    truth = case.labels.array.copy()
    leak = np.zeros(truth.shape, bool)
    leak[-6:, -6:, :6] = True
    hole = np.zeros(truth.shape, bool)
    z, y, x = (int(i[0]) for i in np.nonzero(truth == KIDNEY))
    hole[z : z + 4, y : y + 4, x : x + 4] = True
    given = truth.copy()
    given[leak], given[hole] = KIDNEY, 0
    faulty = dataclasses.replace(case, labels=case.labels.with_array(given))
    labels, found = agreed(faulty, truth, edge_mm=1.0)
    doubted = labels == UNKNOWN
    assert doubted[leak].all()
    # At the hole's edge the smoothed CT is no kidney's.
    assert doubted[hole].mean() > 0.5
    assert np.array_equal(labels[~(leak | hole)], truth[~(leak | hole)])
    lost = {one.structure: one.unknown_ml for one in found}
    assert lost["pancreas"] == 0
    assert lost["kidney"] == pytest.approx(doubted.sum() * 2.5**3 / 1000)


def test_one_thick_slice_is_no_edge() -> None:
    case = loaded()
    geometry = dataclasses.replace(case.labels.geometry, spacing=(5.0, 0.8, 0.8))
    labels = Volume(np.zeros(case.labels.array.shape, np.uint8), geometry)
    labels.array[2:8, 4:20, 4:20] = KIDNEY
    thick = dataclasses.replace(
        case, image=Volume(case.image.array, geometry), labels=labels, annotated=("kidney",)
    )
    other = labels.array.copy()
    other[2, 4:20, 4:20] = 0
    other[:, 19] = 0
    # A row is thinner than twice 2 mm, a slice is not.
    found, _ = agreed(thick, other, edge_mm=2.0)
    doubted = found == UNKNOWN
    assert doubted[2, 8:16, 8:16].all()
    assert not doubted[5].any()


def test_what_the_ct_denies_is_the_models_mistake() -> None:
    case = loaded()
    truth = case.labels.array
    bowel = np.zeros(truth.shape, bool)
    bowel[-6:, -6:, :6] = True
    assert not truth[bowel].any()
    hu = case.image.array.copy()
    inside = hu[truth == KIDNEY]
    other = np.where(bowel, KIDNEY, truth).astype(np.uint8)
    for value, doubted in ((float(np.median(inside)), True), (float(inside.min()) - 300, False)):
        hu[-12:, -12:, :12] = value
        seen = dataclasses.replace(case, image=case.image.with_array(hu))
        labels, _ = agreed(seen, other, edge_mm=1.0)
        assert np.array_equal(labels == UNKNOWN, bowel if doubted else np.zeros_like(bowel))


def test_a_dark_lesion_inside_an_organ_is_unknown_where_the_labels_left_it_out() -> None:
    case = loaded()
    truth = case.labels.array
    centre = [round(i.mean()) for i in np.nonzero(truth == KIDNEY)]
    hole = np.zeros(truth.shape, bool)
    hole[tuple(slice(c - 2, c + 3) for c in centre)] = True
    hole &= truth == KIDNEY
    hu = case.image.array.copy()
    hu[hole] = -50
    given = np.where(hole, 0, truth).astype(np.uint8)
    faulty = dataclasses.replace(
        case, image=case.image.with_array(hu), labels=case.labels.with_array(given)
    )
    labels, _ = agreed(faulty, truth, edge_mm=1.0)
    assert np.array_equal(labels == UNKNOWN, hole)


def test_a_model_that_finds_nothing_is_no_witness() -> None:
    case = loaded()
    blind = np.where(case.labels.array == KIDNEY, 0, case.labels.array).astype(np.uint8)
    labels, found = agreed(case, blind)
    assert np.array_equal(labels, case.labels.array)
    assert [one.credible for one in found if one.structure == "kidney"] == [False]
    assert "model not listened to" in table(found)


def test_a_model_is_asked_about_some_structures_alone() -> None:
    case = loaded()
    other = np.where(case.labels.array == KIDNEY, 0, case.labels.array)
    other[case.labels.array == PANCREAS] = KIDNEY
    kept, found = agreed(case, other, edge_mm=1.0, structures=("pancreas",))
    assert np.array_equal(kept, case.labels.array)
    assert not any(one.credible for one in found)
    leaking = moved(case.labels.array, 3)
    doubted, found = agreed(case, leaking, edge_mm=1.0, structures=("kidney",))
    assert {one.structure: one.credible for one in found} == {"pancreas": False, "kidney": True}
    assert (doubted[case.labels.array == KIDNEY] == UNKNOWN).any()
    assert not (doubted[case.labels.array == PANCREAS] == UNKNOWN).any()


def test_what_a_case_does_not_annotate_counts_as_what_it_looks_like() -> None:
    case = loaded(annotated=("kidney",))
    labels = np.where(case.labels.array == PANCREAS, 0, case.labels.array).astype(np.uint8)
    case = dataclasses.replace(case, labels=case.labels.with_array(labels))
    witness = labels.copy()
    witness[labels == KIDNEY] = 4  # a tumor, in a case whose kidneys hold their tumors
    witness[0:6, 0:6, 0:6] = PANCREAS
    found, _ = agreed(case, witness, edge_mm=1.0)
    assert np.array_equal(found, labels)


def test_a_set_is_written_and_read_with_its_unknown_voxels(tmp_path: Path) -> None:
    cases = open_dataset(write_decathlon(tmp_path / "source"))

    def witness(read: Loaded) -> np.ndarray:
        return np.where(block(read.labels.array), 0, read.labels.array).astype(np.uint8)

    def block(labels: np.ndarray) -> np.ndarray:
        half = np.zeros(labels.shape, bool)
        half[: round(np.nonzero(labels == KIDNEY)[0].mean())] = True
        return half & (labels == KIDNEY)

    found = write_agreed(cases, tmp_path / "out", lambda case: witness, edge_mm=1.0)
    again = open_dataset(tmp_path / "out")
    assert [case.name for case in again] == [case.name for case in cases]
    assert len(found) == 4
    for one, other in zip(cases, again, strict=True):
        labels = load(other).labels.array
        known = labels != UNKNOWN
        assert np.array_equal(~known, block(load(one).labels.array))
        assert np.array_equal(labels[known], load(one).labels.array[known])
        assert "disagrees" in other.source["labels"]
    with pytest.raises(BadParameter, match="is not empty"):
        write_agreed(cases, tmp_path / "out", lambda case: witness)


def test_a_structure_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="no structure 'heart'"):
        write_agreed([], tmp_path / "out", left_out(tmp_path), structures=("heart",))


def test_a_case_without_a_left_out_model_is_named(tmp_path: Path) -> None:
    (case, *_) = open_dataset(write_decathlon(tmp_path / "source"))
    with pytest.raises(BadParameter, match=f"no model trained without {case.name}"):
        left_out(tmp_path)(case)
