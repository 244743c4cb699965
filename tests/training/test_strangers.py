"""CTs without an abdomen: drawn from their seed, and known to hold nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imaging.errors import BadParameter
from models.manifest import Sampling
from tests.training.tiny import volumetric
from training.phantoms import STRANGERS, make_stranger
from training.runs import make_phantoms
from training.samples import Sampler

COARSE = (6.0, 6.0, 6.0)


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_seed_makes_one_body_in_air(kind: str) -> None:
    made = make_stranger(kind, 3, COARSE)
    assert np.array_equal(made.array, make_stranger(kind, 3, COARSE).array)
    assert not np.array_equal(made.array, make_stranger(kind, 4, COARSE).array)
    assert made.geometry.spacing == COARSE
    inside = made.array > -300
    assert 0.05 < inside.mean() < 0.8
    assert made.array.min() < -950


def test_a_head_has_a_skull_about_a_brain() -> None:
    hu = make_stranger("head", 1, COARSE).array
    middle = hu[tuple(n // 2 for n in hu.shape)]
    assert -20 < middle < 150
    assert (hu > 400).mean() > 0.01


def test_a_chest_has_lungs() -> None:
    assert ((hu := make_stranger("chest", 1, COARSE).array) < -600).any()
    assert ((hu > -980) & (hu < -650)).mean() > 0.05


@pytest.mark.parametrize(
    ("kind", "seed", "spacing", "said"),
    [
        ("foot", 0, COARSE, "no stranger 'foot'"),
        ("head", -1, COARSE, "seed -1"),
        ("head", 0, (0.0, 1.0, 1.0), "spacing"),
    ],
)
def test_what_cannot_be_made_is_refused(
    kind: str, seed: int, spacing: tuple[float, float, float], said: str
) -> None:
    with pytest.raises(BadParameter, match=said):
        make_stranger(kind, seed, spacing)


def test_a_training_knows_that_they_hold_nothing() -> None:
    recipe = volumetric(sampling=Sampling(COARSE), strangers=5)
    cases = make_phantoms(recipe)
    assert [case.name for case in cases] == [f"stranger-{n}" for n in range(5)]
    assert len({case.hu.tobytes() for case in cases}) == 5
    assert all(case.phantom and case.annotated == recipe.outputs for case in cases)
    batch = Sampler(cases, dataclasses.replace(recipe, phantom_share=1.0)).batch(0)
    assert not batch.targets.any()
    assert batch.folds.tolist() == [[0, 1, 2]]
