"""Weights to start from: what one training learned, given to another network."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from imaging.errors import BadParameter, DataError
from models.architectures.kits21_resunet import Transferred
from training import checkpoint
from training.recipe import Recipe
from training.trainer import initial_network


@runtime_checkable
class Transferable(Protocol):
    """A network that knows which weights of another one it can take over."""

    def transfer_from(self, pretrained: dict[str, Tensor]) -> Transferred: ...


def initial_state(recipe: Recipe, pretrained: Path) -> dict[str, Tensor]:
    """The state of a recipe's network that begins with pretrained weights.

    Args:
        recipe: what is to be trained.
        pretrained: a checkpoint, or the folder of a training (its best one, where it validated).

    Returns:
        The state; what was not taken over (a new head) is fresh from the seed.

    Raises:
        DataError: no checkpoint there.
        BadParameter: weights of another network.
    """
    state = checkpoint.load(weights_of(pretrained)).network
    network = initial_network(recipe)
    if isinstance(network, Transferable):
        network.transfer_from(state)
        return network.state_dict()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise BadParameter(
            f"{pretrained} holds weights of another network than {recipe.architecture} ({error})."
        ) from error
    return network.state_dict()


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
