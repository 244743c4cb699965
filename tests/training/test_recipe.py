"""Recipes as values: checked when made, the same after JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from imaging.errors import BadParameter
from tests.training.tiny import flat, volumetric
from training.recipe import Optimizer, Recipe
from training.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_json_and_back(name: str) -> None:
    one = recipe(name)
    assert Recipe.from_json(one.to_json()) == one
    assert json.loads(one.to_json())["name"] == name


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sampling": 3}', '{"name": "x", "colour": 1}'])
def test_what_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="no recipe of this version"):
        Recipe.from_json(text)


def test_a_field_of_another_version_is_refused() -> None:
    raw = json.loads(volumetric().to_json()) | {"momentum": 0.9}
    with pytest.raises(BadParameter, match="momentum"):
        Recipe.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": ("heart",)},
        {"merge": {"pancreas_tumor": "heart"}},
        {"loss": "mse"},
        {"loss": "dice"},
        {"activation": "sigmoid"},
        {"lesion_free": ("kidney_cyst",)},
        {"steps": 0},
        {"steps_per_epoch": 0},
        {"batch": 0},
        {"seed": -1},
        {"seed": 2**32},
    ],
    ids=str,
)
def test_values_outside_their_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadParameter):
        volumetric(**change)


def test_the_dice_loss_is_for_one_structure() -> None:
    with pytest.raises(BadParameter, match="one sigmoid structure"):
        flat(outputs=("kidney", "liver"))


@pytest.mark.parametrize("change", [{"name": "adam"}, {"schedule": "step"}])
def test_optimizers_are_checked(change: dict[str, str]) -> None:
    with pytest.raises(BadParameter, match=next(iter(change.values()))):
        dataclasses.replace(Optimizer(), **change)


def test_channels_count_the_background_of_a_softmax() -> None:
    assert volumetric().channels == 3
    assert flat().channels == 1


def test_monet_is_the_papers_recipe() -> None:
    one = recipe("monet")
    assert (one.architecture, one.options) == ("monet", {})
    assert (one.loss, one.activation, one.outputs) == ("dice", "sigmoid", ("pancreas",))
    assert one.merge == {"pancreas_tumor": "pancreas"}
    assert (one.optimizer.name, one.optimizer.lr, one.optimizer.schedule) == (
        "nadam",
        5e-4,
        "plateau",
    )
    assert one.sampling.size == (None, 256, 256)
    assert (one.intensity.window_hu, one.intensity.scale) == ((-150.0, 200.0), "scan")
    assert (one.augment.rotate_deg, one.augment.scale, one.augment.shift) == (
        (10.0, 0.0, 0.0),
        (0.75, 1.25),
        0.2,
    )
    assert (one.slab, one.batch) == (16, 12)
