"""A training's moving parts, epoch by epoch: what ``fit`` and a federation's sites both drive."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imaging.errors import BadParameter, DataError, DeviceUnavailable
from imaging.files import write_whole
from models import architectures
from training import checkpoint
from training.averaging import RunningMean
from training.checkpoint import Checkpoint
from training.objective import Objective, Penalty
from training.precision import use_bf16
from training.prepared import Prepared
from training.recipe import Augment, Recipe
from training.samples import Batch, Sampler, drawn_ahead
from training.schedules import Schedule, optimizer_of
from training.world import join

HISTORY = "history.jsonl"
# Validation draws its patches beyond every training step, so that they are never trained on.
_VALIDATION_STEP = 2**40
_VALIDATION_BATCHES = 8
# Batches drawn at a time beside a GPU; beside a CPU's own threads one is enough.
_DRAWING_ON_GPU = 8


def pick_device(device: str) -> torch.device:
    """The named device; ``auto`` is CUDA where there is one.

    Raises:
        DeviceUnavailable: CUDA was asked for and is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise BadParameter(f"device must be auto, cpu or cuda, not {device!r}.")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise DeviceUnavailable(
            "No CUDA device is available here; use --device cpu.", device=device
        )
    return torch.device("cuda" if there and device != "cpu" else "cpu")


def initial_network(recipe: Recipe) -> nn.Module:
    """The recipe's network with the weights its seed gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return architectures.build(recipe.architecture, recipe.channels, **recipe.options)


def freeze_norms(network: nn.Module) -> None:
    """Let batch norms use the statistics that they have; the network's ``train()`` undoes it."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


class Trainer:
    """A recipe's network in training: the same steps in the same order, whoever drives them.

    Args:
        recipe: what to train.
        train: cases on the recipe's grid.
        validation: cases to choose by.
        out: folder of checkpoints and history, written after every epoch; ``None`` for a driver
            that keeps :meth:`checkpoint` itself.
        device, precision: of :func:`training.fit.fit`.
        penalty: what the objective minimises besides the loss.

    Attributes:
        network: in training, on the device.
        step: steps done.
        average: of the weights, where the recipe wants them averaged.
        history: an entry an epoch.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Sequence[Prepared],
        *,
        validation: Sequence[Prepared] = (),
        out: Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        penalty: Penalty | None = None,
    ) -> None:
        self.recipe, self.out = recipe, out
        picked = pick_device(device)
        self.world = join(picked)
        cuda = picked.type == "cuda"
        self.device = torch.device("cuda", self.world.local) if cuda else picked
        self.sampler = Sampler(train, recipe, self.world.rank, self.world.size)
        plain = dataclasses.replace(recipe, augment=Augment(), plant=0.0)
        self.validation = Sampler(validation, plain) if validation else None
        self.network = initial_network(recipe)
        self.objective = Objective(self.network, recipe)
        self.objective.bf16 = use_bf16(precision, picked, self.objective, self.sampler.batch(0))
        self.objective.penalty = penalty
        self.objective.to(self.device)
        self.shared = self.world.wrapped(self.objective)
        self.optimizer: torch.optim.Optimizer
        self.schedule: Schedule
        self.average: RunningMean
        self.step: int
        self.best: tuple[float, int]
        self.history: list[dict[str, Any]]
        self.forget()

    def batches(self) -> AbstractContextManager[Iterator[Batch]]:
        """The batches from the next step on, drawn in the background within the context."""
        threads = _DRAWING_ON_GPU if self.device.type == "cuda" else 1
        return drawn_ahead(self.sampler, self.step, threads)

    def exhausted(self) -> bool:
        """Whether validation has not become better for the recipe's patience."""
        waited = len(self.history) - self.best[1]
        return bool(self.validation and self.recipe.patience and waited >= self.recipe.patience)

    def epoch(
        self, batches: Iterator[Batch], told: Callable[[float], None] | None = None
    ) -> dict[str, Any]:
        """Train to the next epoch's end, validate, save.

        Args:
            batches: of :meth:`batches`.
            told: called with the loss of every step; may raise to stop.

        Returns:
            The history's entry; ``seconds`` is what the epoch took.
        """
        self.objective.train()
        began = time.monotonic()
        end = min(self.recipe.steps, self.step + self.recipe.steps_per_epoch)
        losses = []
        while self.step < end:
            losses.append(self._train_step(next(batches)))
            if told:
                told(losses[-1])
        entry: dict[str, Any] = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            "loss": sum(losses) / len(losses),
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        if self.validation:
            entry["validation_loss"] = self._validate()
        entry["seconds"] = time.monotonic() - began
        self._judge(entry)
        return entry

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            DataError: it is another recipe's.
        """
        if saved.recipe != self.recipe.to_json():
            raise DataError(
                f"{self.out or 'This checkpoint'} holds a training of other settings; resume with "
                "the same ones or name another folder with --out."
            )
        self.network.load_state_dict(saved.network)
        self.optimizer.load_state_dict(saved.optimizer)
        self.schedule.load_state_dict(saved.schedule)
        self.average = RunningMean()
        if saved.average:
            self.average.load_state_dict(saved.average)
        self.step, self.best, self.history = saved.step, saved.best, saved.history

    def _train_step(self, batch: Batch) -> float:
        self.schedule.before(self.step)
        if self.step >= (1 - self.recipe.frozen_norms) * self.recipe.steps:
            freeze_norms(self.network)
        # Dropout draws from torch's own generator: seeded by step, it needs no state on disk. Each
        # process of a shared training drops others.
        torch.manual_seed((self.recipe.seed << 32) + (self.world.rank << 24) + self.step)
        loss = self._loss(self.shared, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(
            self.network.parameters(), self.recipe.optimizer.clip or torch.inf
        )
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise DataError(
                f"The loss became {loss.item()} (gradient {norm.item()}) in step {self.step}; "
                "lower the learning rate or check the data set."
            )
        self.optimizer.step()
        self.step += 1
        self._take_average()
        return float(self.world.mean(loss).item())

    def _take_average(self) -> None:
        """Take the step's weights into the mean; after the last step it is the network."""
        if self.step <= self.recipe.averaged_from:
            return
        self.average.add(self.network)
        if self.step == self.recipe.steps:
            self.average.give(self.network)

    def _loss(self, objective: nn.Module, batch: Batch) -> Tensor:
        there = batch.to(self.device)
        loss: Tensor = objective(there.images, there.targets, there.folds, there.tasks)
        return loss

    def _validate(self) -> float:
        assert self.validation is not None
        self.objective.eval()
        with torch.no_grad():
            losses = [
                self._loss(self.objective, self.validation.batch(_VALIDATION_STEP + i))
                for i in range(_VALIDATION_BATCHES)
            ]
        # The mean over processes: all of them see the same one, and stop together.
        return float(self.world.mean(torch.stack(losses).mean()))

    def _judge(self, entry: dict[str, Any]) -> None:
        """Compare with the best so far, move the schedule, save."""
        score = entry.get("validation_loss", entry["loss"])
        better = score < self.best[0]
        self.history.append(entry)
        if better:
            self.best = (score, len(self.history))
        self.schedule.after_epoch(score)
        if self.out is None or not self.world.leads:
            return
        state = self.checkpoint()
        if better and self.validation:
            checkpoint.save(state, self.out / checkpoint.BEST)
        checkpoint.save(state, self.out / checkpoint.LAST)
        lines = "".join(json.dumps(e) + "\n" for e in self.history)
        write_whole(self.out / HISTORY, lines.encode())

    def forget(self) -> None:
        """Begin the training anew with the network as it is."""
        self.optimizer = optimizer_of(self.recipe, self.network)
        self.schedule = Schedule(self.recipe, self.optimizer)
        self.average = RunningMean()
        self.step, self.best, self.history = 0, (float("inf"), 0), []

    def checkpoint(self) -> Checkpoint:
        """Everything :meth:`restore` needs; its tensors are the live ones."""
        return Checkpoint(
            self.recipe.to_json(),
            self.step,
            self.network.state_dict(),
            self.optimizer.state_dict(),
            self.schedule.state_dict(),
            self.best,
            self.history,
            self.average.state_dict() if self.average.count else {},
        )
