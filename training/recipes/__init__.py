"""Recipes by name. To add one: a file here and an entry in ``RECIPES``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from imaging.errors import BadParameter
from training.recipe import Recipe, Scale
from training.recipes import kits21
from training.recipes.monet import baseline, monet
from training.recipes.mots import mots_dodnet, mots_kits21
from training.recipes.segviz import segviz, segviz_site
from training.recipes.starter import (
    starter,
    starter_finder,
    starter_lesions,
    starter_monet,
    starter_organs,
)
from training.recipes.wang2020 import wang2020

RECIPES: Mapping[str, Callable[[Scale], Recipe]] = {
    "wang2020": wang2020,
    "segviz": segviz,
    "segviz-liver": segviz_site("liver"),
    "segviz-spleen": segviz_site("spleen"),
    "segviz-pancreas": segviz_site("pancreas"),
    "segviz-kidney": segviz_site("kidney"),
    "monet": monet,
    "monet-unet64": baseline("unet64"),
    "monet-unet16": baseline("unet16"),
    "monet-attention-unet": baseline("attention_unet"),
    "mots-dodnet": mots_dodnet,
    "mots-kits21": mots_kits21,
    "kits21-transfer": kits21.transfer,
    "kits21-scratch": kits21.from_scratch,
    "starter": starter,
    "starter-organs": starter_organs,
    "starter-lesions": starter_lesions,
    "starter-finder": starter_finder,
    "starter-monet": starter_monet,
}


def recipe(name: str, scale: Scale = "paper") -> Recipe:
    """The named recipe at a scale.

    Raises:
        BadParameter: no such recipe.
    """
    if name not in RECIPES:
        raise BadParameter(f"There is no recipe {name!r}; choose from {', '.join(RECIPES)}.")
    return RECIPES[name](scale)


def beside(name: str, other: Recipe) -> Recipe:
    """The recipe of a training that belongs to another one: its pretraining, or a part of it.

    Args:
        name: of the recipe.
        other: the recipe it belongs to. As much as its steps, batch and phantoms are more or fewer
            than usual, those of the result are; scale and seed are the same. Where it has usually
            no phantoms, the result has as many as it.

    Raises:
        BadParameter: no such recipe.
    """
    own, usual = recipe(name, other.scale), recipe(other.name, other.scale)
    steps = max(1, round(own.steps * other.steps / usual.steps))
    of_usual = other.phantoms / usual.phantoms if usual.phantoms else 1
    phantoms = round(own.phantoms * of_usual) if usual.phantoms else other.phantoms
    return dataclasses.replace(
        own,
        steps=steps,
        steps_per_epoch=min(own.steps_per_epoch, steps),
        batch=max(1, round(own.batch * other.batch / usual.batch)),
        phantoms=phantoms,
        strangers=round(own.strangers * of_usual),
        seed=other.seed,
    )
