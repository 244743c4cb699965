"""Learning rates, by hand-computed numbers."""

from __future__ import annotations

import math

import pytest
import torch

from tests.training.tiny import volumetric
from training.recipe import Optimizer, Recipe
from training.schedules import Schedule, optimizer_of


def rates(recipe: Recipe, steps: list[int]) -> list[float]:
    optimizer = optimizer_of(recipe, torch.nn.Linear(1, 1))
    schedule = Schedule(recipe, optimizer)
    found = []
    for step in steps:
        schedule.before(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_cosine_falls_from_the_rate_to_its_floor() -> None:
    recipe = volumetric(steps=100, optimizer=Optimizer("adam", 1e-4, "cosine", floor=0.1))
    found = rates(recipe, [0, 50, 100])
    assert found == pytest.approx([1e-4, 0.55e-4, 1e-5])


def test_a_cosine_with_a_period_climbs_again() -> None:
    recipe = volumetric(
        steps=500,
        steps_per_epoch=1,
        optimizer=Optimizer("adam", 1e-4, "cosine", floor=0, period=150),
    )
    found = rates(recipe, [0, 75, 150, 300, 450])
    assert found == pytest.approx([1e-4, 0.5e-4, 0.0, 1e-4, 0.0], abs=1e-12)


def test_the_rate_climbs_in_the_first_steps() -> None:
    optimizer = Optimizer("adam", 1e-3, "cosine", floor=0, warmup=4)
    found = rates(volumetric(steps=100, optimizer=optimizer), [0, 1, 3, 50])
    assert found == pytest.approx([0.25e-3, 0.5e-3, 1e-3, 0.5e-3])


def test_poly_falls_by_epoch() -> None:
    recipe = volumetric(steps=1000, steps_per_epoch=10, optimizer=Optimizer("sgd", 1e-2, "poly"))
    found = rates(recipe, [0, 9, 10, 500, 999])
    expected = [1e-2 * (1 - k / 100) ** 0.9 for k in (0, 0, 1, 50, 99)]
    assert found == pytest.approx(expected)


def test_what_falls_has_fallen_before_weights_are_averaged() -> None:
    optimizer = Optimizer("adam", 1e-3, "cosine", floor=0.1, averaging=0.5)
    recipe = volumetric(steps=100, averaged=0.4, optimizer=optimizer)
    found = rates(recipe, [0, 30, 59, 60, 99])
    assert found[:2] == pytest.approx([1e-3, 0.55e-3])
    assert 1e-4 < found[2] < 1.1e-4
    assert found[3:] == pytest.approx([0.5e-3, 0.5e-3])


def test_constant_stays() -> None:
    recipe = volumetric(optimizer=Optimizer("adamw", 3e-3, "constant"))
    assert rates(recipe, [0, 3]) == [3e-3, 3e-3]


def test_the_plateau_waits_two_epochs_and_its_state_goes_on() -> None:
    recipe = volumetric(optimizer=Optimizer("nadam", 1.0, "plateau"))
    optimizer = optimizer_of(recipe, torch.nn.Linear(1, 1))
    schedule = Schedule(recipe, optimizer)
    found = []
    for loss in [1.0, 0.9, 0.95, 0.91, 0.5, 0.6, math.nan]:
        schedule.after_epoch(loss)
        again = Schedule(recipe, optimizer)
        again.load_state_dict(schedule.state_dict())
        schedule = again
        schedule.before(0)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("nadam", torch.optim.NAdam),
        ("sgd", torch.optim.SGD),
    ],
)
def test_optimizers_by_name(name: str, kind: type) -> None:
    recipe = volumetric(optimizer=Optimizer(name, 0.5, weight_decay=0.25, momentum=0.9))
    found = optimizer_of(recipe, torch.nn.Linear(1, 1))
    assert type(found) is kind
    assert found.defaults["lr"] == 0.5
    assert found.defaults["weight_decay"] == 0.25
    if name == "sgd":
        assert (found.defaults["momentum"], found.defaults["nesterov"]) == (0.9, True)
