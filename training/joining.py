"""One network made of others, each of which was trained by a recipe of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imaging.errors import BadParameter
from models.export import Parity
from models.manifest import Manifest, Provenance
from training.package import export_recipe
from training.pretraining import Given, channels_of, part_for, read_given
from training.recipe import Recipe
from training.recipes import recipe as named_recipe
from training.trainer import initial_network


def join(recipe: Recipe, sources: Mapping[str, str | Path]) -> tuple[nn.Module, Provenance]:
    """The network of a recipe with parts, and where its weights come from.

    Args:
        recipe: of the whole.
        sources: of each part, as :func:`training.pretraining.start_from` takes them: of a
            model that was joined before, that part.

    Returns:
        The network in evaluation mode. The provenance is that of the part that comes first, with
        the steps and the data of all.

    Raises:
        BadParameter: other parts than the recipe's, or weights of another network.
        DataError, ModelNotFound: of :func:`training.pretraining.read_given`.
    """
    if set(sources) != set(recipe.parts):
        raise BadParameter(
            f"{recipe.name} is joined from {', '.join(recipe.parts) or 'nothing'}, not from "
            f"{', '.join(sources) or 'nothing'}."
        )
    network = initial_network(recipe)
    parts = []
    for part, name in recipe.parts.items():
        own = named_recipe(name, recipe.scale)
        given = part_for(own, read_given(sources[part]))
        _put(network.get_submodule(part), given, own)
        parts.append(given)
    return network.eval(), _provenance(recipe, parts)


def join_files(
    recipe: Recipe, sources: Mapping[str, str | Path], path: Path
) -> tuple[Manifest, Parity]:
    """Join and export, see :func:`join` and :func:`training.package.export_recipe`."""
    network, provenance = join(recipe, sources)
    return export_recipe(network, recipe, provenance, path)


def _put(module: nn.Module, given: Given, recipe: Recipe) -> None:
    """A part's weights into its module.

    Raises:
        BadParameter: they are not a network's of that recipe.
    """
    wanted = channels_of(recipe.outputs, recipe.activation)
    own = dict([*module.named_parameters(), *module.named_buffers()])
    floats = {name: t for name, t in own.items() if t.is_floating_point()}
    fits = all(
        name in given.network and given.network[name].shape == t.shape for name, t in floats.items()
    )
    if not fits or given.channels != wanted or given.architecture != recipe.architecture:
        raise BadParameter(
            f"{given.name} holds weights of another network than {recipe.name} trains; name a "
            "model of that recipe and scale."
        )
    with torch.no_grad():
        for name, tensor in floats.items():
            tensor.copy_(given.network[name])


def _provenance(recipe: Recipe, parts: list[Given]) -> Provenance:
    known = [given.provenance for given in parts if given.provenance]
    if not known:
        return Provenance(recipe.name)
    data: list[dict[str, Any]] = []
    for entry in (entry for provenance in known for entry in provenance.data):
        if entry not in data:
            data.append(entry)
    steps = sum(provenance.steps or 0 for provenance in known)
    return dataclasses.replace(known[0], recipe=recipe.name, steps=steps, data=tuple(data))
