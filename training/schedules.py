"""Optimizers and learning rates of the papers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from training.recipe import Recipe

# The paper of MoNet: a tenth once the validation loss has stagnated for 2 epochs.
_PLATEAU_EPOCHS, _PLATEAU_FACTOR = 2, 0.1
# nnU-Net's and DoDNet's exponent.
_POLY = 0.9


def optimizer_of(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over all weights."""
    settings, weights = recipe.optimizer, network.parameters()
    if settings.name == "sgd":
        return torch.optim.SGD(
            weights,
            settings.lr,
            settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
    kinds: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "nadam": torch.optim.NAdam,
    }
    found: torch.optim.Optimizer = kinds[settings.name](
        weights, settings.lr, weight_decay=settings.weight_decay
    )
    return found


class Schedule:
    """The learning rate of every step; all but ``plateau`` follow from the step alone.

    Args:
        recipe: its optimizer's schedule, steps and steps per epoch.
        optimizer: whose rate is set.
    """

    def __init__(self, recipe: Recipe, optimizer: torch.optim.Optimizer) -> None:
        self._recipe, self._optimizer = recipe, optimizer
        self._best, self._waited, self._factor = math.inf, 0, 1.0

    def before(self, step: int) -> None:
        """Set the rate that a step is to use."""
        rate = self._recipe.optimizer.lr * self._part(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def after_epoch(self, loss: float) -> None:
        """Take an epoch's validation loss into account."""
        if self._recipe.optimizer.schedule != "plateau":
            return
        if loss < self._best:
            self._best, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited >= _PLATEAU_EPOCHS:
            self._factor, self._waited = self._factor * _PLATEAU_FACTOR, 0

    def state_dict(self) -> dict[str, float]:
        """What :meth:`load_state_dict` needs to go on."""
        return {"best": self._best, "waited": self._waited, "factor": self._factor}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""
        self._best, self._factor = state["best"], state["factor"]
        self._waited = int(state["waited"])

    def _part(self, step: int) -> float:
        """The rate at a step as a part of the initial one."""
        recipe, settings = self._recipe, self._recipe.optimizer
        if step < settings.warmup:
            return (step + 1) / settings.warmup
        if recipe.averaged and step >= recipe.averaged_from:
            return settings.averaging
        if settings.schedule == "cosine":
            whole = settings.period * recipe.steps_per_epoch or recipe.averaged_from
            fall = (1 + math.cos(math.pi * step / whole)) / 2
            return settings.floor + (1 - settings.floor) * fall
        if settings.schedule == "poly":
            epochs = math.ceil(recipe.averaged_from / recipe.steps_per_epoch)
            return float((1 - step // recipe.steps_per_epoch / epochs) ** _POLY)
        return self._factor
