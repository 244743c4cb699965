from __future__ import annotations

import pytest

from imaging.errors import BadParameter
from models.labels import (
    BY_NAME,
    DEFAULT_MASKS,
    GROUPS,
    MASKS,
    STRUCTURES,
    members,
    structure,
    values,
    visible_as,
)


def test_names_values_and_colours_are_distinct() -> None:
    for key in ("name", "value", "colour"):
        assert len({getattr(s, key) for s in STRUCTURES}) == len(STRUCTURES)
    assert all(1 <= s.value <= 255 for s in STRUCTURES)
    assert all(len(s.colour) == 3 and all(0 <= c <= 255 for c in s.colour) for s in STRUCTURES)


def test_values_are_those_of_the_label_maps_at_hand() -> None:
    """The values that the shared data is stored with; changing one would relabel it."""
    assert [s.name for s in sorted(STRUCTURES, key=lambda s: s.value)] == [
        "pancreas",
        "pancreas_tumor",
        "kidney",
        "kidney_tumor",
        "kidney_cyst",
        "liver",
        "spleen",
        "gallbladder",
        "stomach",
        "duodenum",
        "esophagus",
        "liver_tumor",
        "hepatic_vessel",
        "colon",
        "colon_tumor",
        "lung",
        "lung_tumor",
    ]


def _verhoeff(number: str) -> bool:
    """Whether the check digit of a SNOMED CT identifier is right."""
    permutation = [list(range(10))]
    base = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    for _ in range(7):
        permutation.append([permutation[-1][d] for d in base])

    def times(a: int, b: int) -> int:  # in the dihedral group of the pentagon
        if a < 5:
            return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
        return 5 + (a - b) % 5 if b < 5 else (a - b) % 5

    check = 0
    for place, digit in enumerate(reversed(number)):
        check = times(check, permutation[place % 8][int(digit)])
    return check == 0


@pytest.mark.parametrize("found", STRUCTURES, ids=lambda s: s.name)
def test_snomed_identifiers_have_valid_check_digits(found) -> None:
    assert _verhoeff(found.snomed)
    assert not _verhoeff(found.snomed[:-1] + str((int(found.snomed[-1]) + 1) % 10))


def test_lesions_grow_in_organs_and_their_groups_hold_both() -> None:
    for lesion in (s for s in STRUCTURES if s.parent):
        assert BY_NAME[lesion.parent].parent is None
        assert lesion.value in values(lesion.parent)
        assert BY_NAME[lesion.parent].value in values(lesion.parent)


def test_groups() -> None:
    assert set(values("tumor")) == {2, 4}
    assert set(values("kidney")) == {3, 4, 5}
    assert set(values("pancreas")) == {1, 2}
    assert values("kidney_parenchyma") == (3,)
    assert set(values("kidney_masses")) == {4, 5}
    assert set(values("liver")) == {6, 12, 13}
    assert set(DEFAULT_MASKS) <= set(MASKS)
    assert len(set(MASKS)) == len(MASKS)
    assert set(MASKS) == set(GROUPS) | set(BY_NAME)
    for mask in MASKS:
        assert members(mask)


@pytest.mark.parametrize("name", ["", "heart", "Kidney", "x" * 10_000])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(BadParameter, match="pancreas_tumor") as caught:
        members(name)
    assert len(caught.value.message) < 500
    with pytest.raises(BadParameter, match="pancreas_tumor"):
        structure(name)


def test_what_a_lesion_is_seen_as() -> None:
    assert visible_as("kidney_tumor", ["kidney", "kidney_tumor"]) == "kidney_tumor"
    assert visible_as("kidney_tumor", ["kidney"]) == "kidney"
    assert visible_as("kidney_tumor", ["pancreas"]) is None
    assert visible_as("liver", ["kidney"]) is None
    assert visible_as("kidney", ["kidney_tumor"]) is None
