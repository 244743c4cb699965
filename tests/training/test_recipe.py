"""Recipes as values: checked when made, the same after JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from imaging.errors import BadParameter
from tests.training.tiny import flat, volumetric
from training.recipe import SCALES, Augment, Loss, Optimizer, Recipe, Scale
from training.recipes import RECIPES, recipe
from training.recipes.sizes import sized


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", RECIPES)
def test_json_and_back(name: str, scale: Scale) -> None:
    one = recipe(name, scale)
    assert (one.name, one.scale) == (name, scale)
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
        {"loss": Loss("dice")},
        {"activation": "sigmoid"},
        {"lesion_free": ("colon_tumor",)},
        {"steps": 0},
        {"steps_per_epoch": 0},
        {"batch": 0},
        {"averaged": -0.1},
        {"frozen_norms": 1.5},
        {"seed": -1},
        {"seed": 2**32},
    ],
    ids=str,
)
def test_values_outside_their_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadParameter):
        volumetric(**change)


def test_the_dice_loss_is_for_one_structure() -> None:
    with pytest.raises(BadParameter, match="trains one structure"):
        flat(outputs=("kidney", "liver"))


@pytest.mark.parametrize("change", [{"name": "lion"}, {"schedule": "step"}])
def test_optimizers_are_checked(change: dict[str, str]) -> None:
    with pytest.raises(BadParameter, match=next(iter(change.values()))):
        dataclasses.replace(Optimizer(), **change)


def test_channels_count_the_background_of_a_softmax() -> None:
    assert volumetric().channels == 3
    assert flat().channels == 1


def test_monet_is_the_papers_recipe() -> None:
    one = recipe("monet")
    assert (one.architecture, one.options) == ("monet", {})
    assert (one.loss.name, one.activation, one.outputs) == ("dice", "sigmoid", ("pancreas",))
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


SIZES = {"scale", "sampling", "patch", "options", "batch", "steps", "steps_per_epoch"}


@pytest.mark.parametrize("scale", ["tiny", "small"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_scale_changes_sizes_and_nothing_else(name: str, scale: Scale) -> None:
    paper, made = recipe(name), recipe(name, scale)
    changed = {
        f.name for f in dataclasses.fields(paper) if getattr(paper, f.name) != getattr(made, f.name)
    }
    assert changed <= SIZES
    assert made.steps < paper.steps
    assert made.channels == paper.channels


def test_what_is_no_size_cannot_be_scaled() -> None:
    with pytest.raises(BadParameter, match=r"\['optimizer'\] of tiny are no sizes"):
        sized(volumetric(), "tiny", tiny={"optimizer": Optimizer()}, small={})
    with pytest.raises(BadParameter, match="scale must be one of tiny, small, paper, not 'huge'"):
        recipe("monet", "huge")  # type: ignore[arg-type]


def test_wang2020_is_the_papers_recipe() -> None:
    one = recipe("wang2020")
    assert one.architecture == "c2fnas"
    assert one.options["vae"] is True
    assert (one.loss.name, one.loss.kl, one.loss.reconstruction) == ("dice_ce", 0.2, 0.3)
    assert one.sampling.spacing_mm == (1.0, 1.0, 1.0)
    assert (one.intensity.window_hu, one.intensity.scale) == ((-200.0, 250.0), "signed")
    assert (one.patch, one.batch, one.foreground) == ((96, 96, 96), 8, 0.5)
    rate = one.optimizer
    assert (rate.name, rate.lr, rate.lr * rate.floor) == ("adam", 1e-4, pytest.approx(1e-5))
    assert one.augment == Augment()


def test_kits21_is_the_papers_recipe() -> None:
    one = recipe("kits21-transfer")
    assert one.pretrain == "mots-kits21"
    assert (one.loss.name, one.loss.hec) == ("hec", (0.1, 0.3))
    assert one.sampling.spacing_mm == (0.78125,) * 3
    assert one.patch == (128, 128, 128)
    rate = one.optimizer
    assert (rate.name, rate.lr, rate.momentum, rate.schedule) == ("sgd", 0.01, 0.99, "poly")
    assert one.steps == 100 * one.steps_per_epoch
    scratch = recipe("kits21-scratch")
    assert dataclasses.replace(scratch, name=one.name, pretrain=one.pretrain) == one
    before = recipe(one.pretrain)
    assert before.architecture == one.architecture
    assert before.patch == one.patch
    assert len(before.tasks) == before.options["tasks"] == 7


def test_mots_is_the_papers_recipe() -> None:
    one = recipe("mots-dodnet")
    assert one.sampling.spacing_mm == (1.5, 0.8, 0.8)
    assert (one.intensity.window_hu, one.intensity.scale) == ((-325.0, 325.0), "signed")
    assert (one.patch, one.batch) == ((64, 192, 192), 2)
    assert (one.foreground, one.foreground_box) == (0.8, 32)
    assert (one.augment.affine_p, one.augment.scale) == (0.2, (0.7, 1.4))
    assert one.steps == 1000 * one.steps_per_epoch
    assert [task[0] for task in one.tasks] == [
        "liver",
        "kidney",
        "hepatic_vessel",
        "pancreas",
        None,
        None,
        "spleen",
    ]
    assert one.channels == 2


def test_segviz_is_the_papers_recipe() -> None:
    one = recipe("segviz-pancreas")
    assert one.outputs == ("pancreas",)
    assert one.intensity.window_hu == (-87.0, 199.0)
    assert one.sampling.spacing_mm == (2.0, 1.5, 1.5)
    assert (one.patch, one.batch, one.loss.name) == ((32, 128, 128), 8, "softmax_dice")
    assert (one.optimizer.period, one.steps // one.steps_per_epoch) == (150, 500)
    assert recipe("segviz").outputs == ("liver", "spleen", "pancreas", "kidney")


@pytest.mark.parametrize("name", ["monet-unet64", "monet-unet16", "monet-attention-unet"])
def test_the_baselines_differ_from_monet_in_the_network_alone(name: str) -> None:
    one, monet = recipe(name), recipe("monet")
    assert one.architecture == name.removeprefix("monet-").replace("-", "_")
    assert dataclasses.replace(one, name="monet", architecture="monet") == monet
