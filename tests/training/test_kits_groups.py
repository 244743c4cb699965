"""KiTS21's sampled label maps: who drew what, in which order, and the scores against them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imaging.errors import BadParameter, DataError
from training.kits_groups import (
    GROUPS_PER_CASE,
    Annotations,
    Instances,
    annotation_files,
    sampled_segmentations,
    score_groups,
)
from training.surfaces import surface_dice

SPACING = (3.0, 0.8, 0.8)


def names(kind: str, counts: tuple[int, ...]) -> Instances:
    """Annotations that are told apart by name: kind, instance, annotation."""
    return tuple(tuple((kind, i, j) for j in range(n)) for i, n in enumerate(counts))


def used(annotations: Annotations) -> list[list[tuple[str, int, int]]]:
    """Which annotations each label map is made of."""
    calls: list[tuple[str, int, int]] = []

    def read(name: tuple[str, int, int]) -> NDArray[np.bool_]:
        calls.append(name)
        return np.zeros((1, 1, 1), bool)

    maps = []
    for _ in sampled_segmentations(annotations, read):
        maps.append(list(calls))
        calls.clear()
    return maps


def box(start: int, stop: int) -> NDArray[np.bool_]:
    mask = np.zeros((6, 8, 10), bool)
    mask[1:5, 2:6, start:stop] = True
    return mask


def test_the_first_group_by_hand() -> None:
    # RandomState(3).randint gives 2, 0 for the kidneys and 1 for the tumor: from three each.
    drawn = [int(n) for n in np.random.RandomState(3).randint(3, size=3)]
    assert drawn == [2, 0, 1]
    case = Annotations(3, names("k", (3, 3)), names("t", (3,)), ())
    assert used(case)[:3] == [
        [("k", 0, 2), ("k", 1, 0), ("t", 0, 1)],
        [("k", 0, 0), ("k", 1, 1), ("t", 0, 2)],
        [("k", 0, 1), ("k", 1, 2), ("t", 0, 0)],
    ]


def test_offsets_are_drawn_for_tumors_before_cysts_but_cysts_are_placed_first() -> None:
    case = Annotations(11, names("k", (3,)), names("t", (3,)), names("c", (3,)))
    kidney, tumor, cyst = np.random.RandomState(11).randint(3, size=3)
    assert len({int(tumor), int(cyst)}) == 2, "the order of drawing shows"
    assert used(case)[0] == [("k", 0, kidney), ("c", 0, cyst), ("t", 0, tumor)]


counts = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 400), st.lists(st.integers(1, 4), min_size=1, max_size=3), counts, counts)
def test_no_annotation_is_used_twice_in_a_group(
    number: int, kidneys: list[int], tumors: tuple[int, ...], cysts: tuple[int, ...]
) -> None:
    case = Annotations(number, names("k", tuple(kidneys)), names("t", tumors), names("c", cysts))
    size = min(*kidneys, *tumors, *cysts, 4)
    maps = used(case)
    assert len(maps) == GROUPS_PER_CASE * size
    for start in range(0, len(maps), size):
        group = [one for chosen in maps[start : start + size] for one in chosen]
        assert len(set(group)) == len(group)
    for chosen in maps:
        assert len({one[:2] for one in chosen}) == len(kidneys) + len(tumors) + len(cysts)
    assert used(case) == maps


def test_later_kinds_overwrite() -> None:
    case = Annotations(0, ((box(0, 8),),), ((box(4, 6),),), ((box(5, 7),),))
    maps = list(sampled_segmentations(case))
    assert len(maps) == GROUPS_PER_CASE
    for labels in maps:
        assert labels.dtype == np.uint8
        assert labels[2, 3].tolist() == [3, 3, 3, 3, 4, 4, 5, 3, 0, 0]


def test_scores_are_means_over_all_samples() -> None:
    truths = [box(0, 8) * np.uint8(3), box(0, 8) * np.uint8(3)]
    truths[0][box(2, 4)] = 4
    truths[1][box(2, 6)] = 4
    predicted = box(0, 8) * np.uint8(3)
    predicted[box(2, 4)] = 4
    found = score_groups(predicted, truths, SPACING)
    assert list(found) == ["kidney", "kidney_masses", "kidney_tumor"]
    assert (found["kidney"].dice, found["kidney"].surface_dice) == (1, 1)
    assert found["kidney_tumor"].dice == pytest.approx((1 + 2 * 2 / (2 + 4)) / 2)
    other = surface_dice(box(2, 4), box(2, 6), SPACING, 1.1498198361434828)
    assert 0 < other < 1
    assert found["kidney_tumor"].surface_dice == pytest.approx((1 + other) / 2)


def test_empty_on_both_sides_is_1_and_on_one_side_0() -> None:
    kidney = box(0, 8) * np.uint8(3)
    cyst = kidney.copy()
    cyst[box(2, 4)] = 5
    found = score_groups(cyst, [kidney], SPACING)
    assert (found["kidney_masses"].dice, found["kidney_masses"].surface_dice) == (0, 0)
    assert (found["kidney_tumor"].dice, found["kidney_tumor"].surface_dice) == (1, 1)


def test_files_are_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "case_00042" / "segmentations"
    folder.mkdir(parents=True)
    for name in (
        *(f"kidney_instance-{i}_annotation-{j}" for i in (1, 2, 10) for j in (3, 1, 2)),
        "tumor_instance-1_annotation-2",
        "ureter_instance-1_annotation-1",
    ):
        (folder / f"{name}.nii.gz").touch()
    found = annotation_files(folder.parent)
    assert found.case == 42
    assert [[p.name[7:-7] for p in one] for one in found.kidney] == [
        [f"instance-{i}_annotation-{j}" for j in (1, 2, 3)] for i in (1, 2, 10)
    ]
    assert [[p.name for p in one] for one in found.tumor] == [
        ["tumor_instance-1_annotation-2.nii.gz"]
    ]
    assert found.cyst == ()


def test_folders_without_a_case_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="case_00000"):
        annotation_files(tmp_path / "kits")
    (tmp_path / "case_00001").mkdir()
    with pytest.raises(DataError, match="needs an instance"):
        annotation_files(tmp_path / "case_00001")


def test_wrong_annotations_are_refused() -> None:
    with pytest.raises(DataError, match="each instance an annotation"):
        Annotations(0, ((box(0, 2),), ()), (), ())
    for other in (np.zeros((6, 8, 9), bool), box(0, 2).astype(np.uint8)):
        case = Annotations(0, ((box(0, 8),),), ((other,),), ())
        with pytest.raises(DataError, match="bool and of one shape"):
            next(sampled_segmentations(case))


def test_a_prediction_of_another_shape_and_no_samples_are_refused() -> None:
    labels = box(0, 8) * np.uint8(3)
    with pytest.raises(BadParameter, match=r"\(6, 8, 9\)"):
        score_groups(labels[..., :9], [labels], SPACING)
    with pytest.raises(BadParameter, match="at least one"):
        score_groups(labels, [], SPACING)
