"""Weights to start from: what one training learned, given to another network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imaging.errors import BadParameter, DataError
from models import architectures
from models.manifest import BACKGROUND, Provenance
from models.onnxfile import read_manifest, read_weights
from models.store import default_store
from training import checkpoint
from training.recipe import Recipe
from training.recipes import RECIPES
from training.trainer import initial_network

RUN = "run.json"
# What a training that starts from a model of the same structures takes of the recipe's length and
# rate (`islet reproduce finetune`).
_STEPS, _RATE = 0.2, 0.5
# Less of a network than this is another network.
_SAME = 0.5


@dataclass(frozen=True, eq=False)
class Start:
    """The state of a recipe's network that begins with another one's weights.

    Attributes:
        name: what the weights come from.
        state: of the whole network.
        share: part of its weights that were taken over.
        fresh: what was not and is as the seed gives it: structures without an output there, and
            tensors by name.
        data: entries for the provenance: the weights, and what they were trained on.
    """

    name: str
    state: dict[str, Tensor]
    share: float
    fresh: tuple[str, ...]
    data: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        left = f"; fresh: {', '.join(self.fresh)}" if self.fresh else ""
        return f"starts from {self.name}: {self.share:.1%} of the weights{left}"


@dataclass(frozen=True, eq=False)
class Given:
    """Weights and what is known of the network they are from.

    Attributes:
        name: for people.
        network: tensors by name.
        architecture: key of ``models.architectures.ARCHITECTURES``.
        channels: what each output channel is for; empty for a dynamic head.
        provenance, licence: of the model's manifest.
    """

    name: str
    network: Mapping[str, Tensor]
    architecture: str
    channels: tuple[str, ...]
    provenance: Provenance | None
    licence: str


def start_from(recipe: Recipe, source: str | Path) -> Start:
    """A recipe's network that begins with the weights of a model or of a training.

    Of a model that was joined from parts the one is taken that the recipe trains. Tensors are taken
    by name and shape. Those with a slice for each output channel are taken slice by slice, by the
    structures' names, so that a model can be trained on for other structures.

    Args:
        recipe: what is to be trained.
        source: an ``.onnx`` file, a training's folder (its best checkpoint, where it validated),
            a checkpoint, or a model of the store (``name@alias``).

    Raises:
        DataError: a folder without a checkpoint.
        ModelNotFound: neither a file nor a model of the store.
        BadParameter: weights of another network: another architecture, or one of which less than
            half fits.
    """
    given = part_for(recipe, read_given(source))
    network = initial_network(recipe)
    if given.architecture != recipe.architecture:
        raise BadParameter(
            f"{given.name} holds weights of another network than {recipe.architecture}: "
            f"{given.architecture}; name a model of that network."
        )
    channels = channels_of(recipe.outputs, recipe.activation, recipe.tasks)
    same = [name for name in channels if name in given.channels]
    pairs = [(channels.index(name), given.channels.index(name)) for name in same]
    axes = _channel_axes(recipe) if channels != given.channels else {}
    taken, fresh = 0, [n for n in channels if n not in same and n != BACKGROUND]
    # The first name of each tensor alone: a network may have one under several.
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    for name, own in tensors.items():
        value = given.network.get(name)
        sliced = axes.get(name, {})
        if value is not None and _fits(own, value, sliced, len(given.channels)):
            taken += _put(own.detach(), value, sliced, pairs)
        elif own.is_floating_point():
            fresh.append(name)
    share = taken / sum(t.numel() for t in tensors.values() if t.is_floating_point())
    if share < _SAME:
        raise BadParameter(
            f"{given.name} holds weights of another network than {recipe.name} trains: {share:.0%} "
            "of them fit by name and shape. Name a model of the same recipe and scale; one that "
            "another version exported must be exported again from its run."
        )
    return Start(given.name, network.state_dict(), share, tuple(fresh), tuple(_origin(given)))


def fine_tuned(recipe: Recipe) -> Recipe:
    """The recipe for a training that starts from a model: a fifth as long, at half the rate.

    A recipe with a pretraining of its own is a fine-tuning already and stays as it is.
    """
    if recipe.pretrain:
        return recipe
    steps = max(1, round(_STEPS * recipe.steps))
    usual = recipe.optimizer
    warmup = round(_STEPS * usual.warmup)
    optimizer = dataclasses.replace(usual, lr=_RATE * usual.lr, warmup=warmup)
    epoch = min(recipe.steps_per_epoch, steps)
    return dataclasses.replace(recipe, steps=steps, steps_per_epoch=epoch, optimizer=optimizer)


def weights_of(run: Path) -> Path:
    """The checkpoint that a training's folder ends with; a file is taken as it is.

    Raises:
        DataError: a folder without one.
    """
    if run.is_file():
        return run
    for name in (checkpoint.BEST, checkpoint.LAST):
        if (run / name).exists():
            return run / name
    raise DataError(f"{run} holds no checkpoint; name a training's folder or its .pt file.")


def channels_of(
    outputs: Sequence[str], activation: str, tasks: Sequence[Any] = ()
) -> tuple[str, ...]:
    """What each output channel of a network is for; a dynamic head's have no fixed meaning."""
    if tasks:
        return ()
    return (BACKGROUND, *outputs) if activation == "softmax" else tuple(outputs)


def read_given(source: str | Path) -> Given:
    """The weights that :func:`start_from` would start from.

    Raises:
        DataError: a folder without a checkpoint.
        ModelNotFound: neither a file nor a model of the store.
    """
    path = Path(source)
    if path.is_dir() or (path.is_file() and path.suffix != ".onnx"):
        return _of_training(path)
    label = None
    if not path.is_file():
        stored = default_store().resolve(str(source))
        path, label = stored.path, stored.reference
    manifest = read_manifest(path)
    name = label or f"{manifest.name} ({str(manifest.weights_sha256)[:12]})"
    weights = {n: torch.from_numpy(value.copy()) for n, value in read_weights(path).items()}
    channels = channels_of(manifest.outputs, manifest.activation)
    return Given(
        name, weights, manifest.architecture, channels, manifest.provenance, manifest.licence
    )


def part_for(recipe: Recipe, given: Given) -> Given:
    """The part of a joined model that a recipe trains; all of it where there is no such part."""
    made_by = given.provenance.recipe if given.provenance else ""
    parts = RECIPES[made_by](recipe.scale).parts if made_by in RECIPES else {}
    for part, name in parts.items():
        if name == recipe.name:
            start = f"{part}."
            network = {
                n.removeprefix(start): t for n, t in given.network.items() if n.startswith(start)
            }
            channels = channels_of(recipe.outputs, recipe.activation)
            return dataclasses.replace(
                given,
                name=f"the {part} of {given.name}",
                network=network,
                architecture=recipe.architecture,
                channels=channels,
            )
    return given


def _of_training(path: Path) -> Given:
    saved = checkpoint.load(weights_of(path))
    # Read as plain JSON: a recipe of another version may still have made weights that fit.
    recipe = json.loads(saved.recipe)
    described = path / RUN
    provenance = None
    if described.exists():
        provenance = Provenance(**json.loads(described.read_text(encoding="utf-8"))["provenance"])
    return Given(
        f"a training of {recipe['name']} ({saved.step} steps)",
        saved.network,
        recipe["architecture"],
        channels_of(recipe["outputs"], recipe["activation"], recipe["tasks"]),
        provenance,
        "that of its data",
    )


def _channel_axes(recipe: Recipe) -> dict[str, dict[int, int]]:
    """For each tensor the axes that grow with the number of output channels, and by how much.

    Found by building the network with one channel more.
    """
    if recipe.tasks:
        return {}
    one, more = (
        architectures.build(recipe.architecture, recipe.channels + n, **recipe.options).state_dict()
        for n in (0, 1)
    )
    return {
        name: {
            a: more[name].shape[a] - n for a, n in enumerate(value.shape) if more[name].shape[a] > n
        }
        for name, value in one.items()
    }


def _fits(own: Tensor, given: Tensor, sliced: Mapping[int, int], channels: int) -> bool:
    """Whether two tensors have one shape, but for the axes with slices for each channel."""
    wanted = [channels * sliced.get(axis, 0) or n for axis, n in enumerate(own.shape)]
    return list(given.shape) == wanted


def _put(
    own: Tensor, given: Tensor, sliced: Mapping[int, int], pairs: Sequence[tuple[int, int]]
) -> int:
    """Copy a tensor, or the slices of it that the pairs of channels name.

    Returns:
        How many values; counters are none.
    """
    if not own.is_floating_point():
        own.copy_(given)
        return 0
    target, source = (
        np.ix_(
            *(
                _slices([pair[side] for pair in pairs], sliced[axis])
                if axis in sliced
                else np.arange(n)
                for axis, n in enumerate(own.shape)
            )
        )
        for side in (0, 1)
    )
    own.numpy()[target] = given.numpy()[source]
    return int(own.numpy()[target].size)


def _slices(channels: Sequence[int], width: int) -> NDArray[np.int64]:
    """The places of some channels on an axis with so many slices for each."""
    found: NDArray[np.int64] = (
        np.array(channels, np.int64)[:, None] * width + np.arange(width)
    ).ravel()
    return found


def _origin(given: Given) -> list[dict[str, Any]]:
    """The weights' own entry and those of what they were trained on."""
    own = {"name": f"weights of {given.name}", "licence": given.licence}
    before = given.provenance.data if given.provenance else ()
    return [own, *({**entry, "through": given.name} for entry in before)]
