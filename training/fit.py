"""A training from its first step to its last, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from imaging.errors import DataError
from imaging.files import sweep
from training import checkpoint
from training.prepared import Prepared
from training.recipe import Recipe
from training.trainer import Trainer

# Called after every epoch with the entry that goes into the history; may raise to stop.
Hook = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a training ends with.

    Attributes:
        network: on the CPU, in evaluation mode.
        history: an entry an epoch.
        steps: how many were done.
        leads: whether this process is the one, of those sharing the training, that writes.
    """

    network: nn.Module
    history: list[dict[str, Any]]
    steps: int
    leads: bool = True


def fit(
    recipe: Recipe,
    train: Sequence[Prepared],
    out: Path,
    *,
    validation: Sequence[Prepared] = (),
    initial: Mapping[str, Tensor] | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: str = "auto",
    hook: Hook | None = None,
    quiet: bool = False,
) -> Fitted:
    """Train a recipe's network; under torchrun, with every process that it started.

    Checkpoints go to ``out/last.pt`` after every epoch and, with a validation set, to
    ``out/best.pt``; the history to ``out/history.jsonl``. A training that was stopped and resumed
    ends, on a CPU, with the very weights of one that was not.

    Args:
        recipe: what to train.
        train: cases on the recipe's grid.
        out: folder of the run.
        validation: cases to choose by; without them the last weights are the result.
        initial: state to start from instead of the seed's; a resumed training has its own.
        resume: go on from ``out/last.pt`` where there is one.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto`` (bf16 autocast where the machine computes it natively), ``fp32``,
            ``bf16``.
        hook: told of every epoch.
        quiet: no progress bar.

    Raises:
        DataError: a checkpoint of another recipe, one that is not to be resumed, or no case.
        DeviceUnavailable: no such device here.
    """
    run = Trainer(recipe, train, validation=validation, out=out, device=device, precision=precision)
    if resume and (out / checkpoint.LAST).exists():
        run.restore(checkpoint.load(out / checkpoint.LAST))
    elif (out / checkpoint.LAST).exists():
        raise DataError(
            f"{out} holds a training; go on with it (--resume) or name another folder (--out)."
        )
    elif initial is not None:
        run.network.load_state_dict(initial)
    if run.world.leads:
        sweep(out)
    quiet = quiet or not run.world.leads
    with (
        run.batches() as batches,
        tqdm(total=recipe.steps, initial=run.step, disable=quiet, unit="step") as bar,
    ):

        def show(loss: float) -> None:
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        while run.step < recipe.steps and not run.exhausted():
            entry = run.epoch(batches, show)
            if hook and run.world.leads:
                hook(entry)
    run.world.wait()
    if validation and (out / checkpoint.BEST).exists():
        run.network.load_state_dict(checkpoint.load(out / checkpoint.BEST).network)
    return Fitted(run.network.cpu().eval(), run.history, run.step, run.world.leads)
