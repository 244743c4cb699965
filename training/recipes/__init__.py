"""Recipes by name. To add one: a file here and an entry in ``RECIPES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from imaging.errors import BadParameter
from training.recipe import Recipe
from training.recipes.monet import monet
from training.recipes.starter import starter, starter_monet

RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "monet": monet,
    "starter": starter,
    "starter-monet": starter_monet,
}


def recipe(name: str) -> Recipe:
    """The named recipe.

    Raises:
        BadParameter: no such recipe.
    """
    if name not in RECIPES:
        raise BadParameter(f"There is no recipe {name!r}; choose from {', '.join(RECIPES)}.")
    return RECIPES[name]()
