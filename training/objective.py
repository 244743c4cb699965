"""What a training minimises: a recipe's network and its loss, as one module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.architectures.c2fnas import C2FNAS
from models.labels import BY_NAME
from training.losses import (
    deep_supervision,
    dice_loss,
    families,
    hec_cross_entropy,
    hec_groups,
    kl_divergence,
    marginal_dice,
    marginal_dice_ce,
    marginal_log_dice_ce,
    masked_dice_bce,
    reconstruction_l2,
    within_organs,
)
from training.recipe import Loss, Recipe

# What is minimised besides the loss: of the network, a batch's images and targets, and its logits
# at full resolution. A scalar.
Penalty = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


class Objective(nn.Module):
    """A network with the loss of its recipe; the loss is computed in float32.

    One module, so that processes that share a training wrap one thing.

    Args:
        network: of the recipe's architecture.
        recipe: what it learns, and how.

    Attributes:
        bf16: whether the network computes in bfloat16 where autocast knows how.
        penalty: added to the loss in training; a federation's strategy may have one.
    """

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.network, self._recipe, self.bf16 = network, recipe, False
        self.penalty: Penalty | None = None
        self._members: Tensor
        self.register_buffer("_members", _task_members(recipe), persistent=False)

    def forward(self, images: Tensor, targets: Tensor, folds: Tensor, tasks: Tensor) -> Tensor:
        """The loss of a batch, see :class:`training.samples.Batch`; a scalar."""
        logits, found = self._scored(images, targets, folds, tasks)
        if self.penalty is None or not self.training:
            return found
        finest = logits[:, 0] if logits.ndim == images.ndim + 1 else logits
        return found + self.penalty(self.network, images, targets, finest)

    def _scored(
        self, images: Tensor, targets: Tensor, folds: Tensor, tasks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits and loss."""
        loss = self._recipe.loss
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            if self._recipe.tasks:
                logits = self.network(images, tasks).float()
                return logits, self._of_tasks(logits, targets, tasks)
            if self.training and loss.kl + loss.reconstruction > 0:
                return self._with_reconstruction(images, targets, folds)
            logits = self.network(images).float()
        if logits.ndim == images.ndim + 1:
            return logits, deep_supervision(lambda level: self._of(level, targets, folds), logits)
        return logits, self._of(logits, targets, folds)

    def _with_reconstruction(
        self, images: Tensor, targets: Tensor, folds: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(self.network, C2FNAS)
        loss = self._recipe.loss
        logits, made = self.network.forward_vae(images)
        logits = logits.float()
        kl = kl_divergence(made.mean.float(), made.log_variance.float())
        apart = reconstruction_l2(images, made.image.float())
        found = self._of(logits, targets, folds) + loss.kl * kl + loss.reconstruction * apart
        return logits, found

    def _of(self, logits: Tensor, targets: Tensor, folds: Tensor) -> Tensor:
        loss = self._recipe.loss
        # Slices of a volume share little with each other; one Dice over all of them is steadier.
        batch = loss.batch_dice or targets.ndim == 3
        if loss.name == "dice":
            return dice_loss(torch.sigmoid(logits[:, 0]), targets, loss.smooth)
        if loss.name == "softmax_dice":
            return marginal_dice(logits, targets, folds, loss.smooth, batch)
        dice_ce = marginal_log_dice_ce if loss.log_dice else marginal_dice_ce
        found = dice_ce(logits, targets, folds, loss.smooth, batch)
        if loss.within:
            inside = within_organs(logits, targets, folds, families(self._recipe.outputs))
            found = found + loss.within * inside
        if loss.name == "dice_ce":
            return found
        return found + hec_cross_entropy(logits, targets, folds, self._groups(loss))

    def _groups(self, loss: Loss) -> tuple[tuple[tuple[int, ...], float], ...]:
        return hec_groups(self._recipe.outputs, loss.hec)

    def _of_tasks(self, logits: Tensor, targets: Tensor, tasks: Tensor) -> Tensor:
        """DoDNet's loss: organ and tumor of each sample's own task, where it has both."""
        inside = self._members[tasks]
        rows = torch.arange(len(tasks), device=targets.device)
        flat = targets.flatten(1)
        wanted = torch.stack([inside[rows[:, None], c, flat] for c in (0, 1)], 1)
        known = torch.tensor(
            [[name is not None for name in self._recipe.tasks[t]] for t in tasks.tolist()],
            device=targets.device,
        )
        shape = (len(tasks), 2, *targets.shape[1:])
        loss = self._recipe.loss
        wanted = wanted.reshape(shape).float()
        return masked_dice_bce(logits, wanted, known, loss.smooth, loss.log_dice)


def _task_members(recipe: Recipe) -> Tensor:
    """Whether a target channel belongs to a task's organ or tumor, bool (tasks, 2, channels).

    What lies in an organ belongs to it too; the vessels' task has another organ's tumor, which
    does not.
    """
    table = torch.zeros(len(recipe.tasks), 2, len(recipe.outputs) + 1, dtype=torch.bool)
    channel = {name: i + 1 for i, name in enumerate(recipe.outputs)}
    for index, (organ, tumor) in enumerate(recipe.tasks):
        for name, place in channel.items():
            table[index, 0, place] = organ is not None and organ in (name, BY_NAME[name].parent)
            table[index, 1, place] = name == tumor
    return table
