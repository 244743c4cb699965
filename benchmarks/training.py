"""Training throughput of Islet's loop, beside the same training as plain MONAI is written.

    python -m benchmarks.training [--recipes wang2020 monet] [--repeats N] [--json FILE]

Both sides train the same network with the same batch, loss, optimizer and precision on the same
phantoms, turn by turn in one process. A turn is a new training of two epochs: the first is the
warm-up, the second is counted, its checkpoint included. The plain side is a CacheDataset with
MONAI's dictionary transforms; the better of loading in the process and in two workers counts.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset

from benchmarks.frame import Result, arguments, finish, spread, timed, turns
from benchmarks.plain import PEERS, Turn, gpu_use, loader_of, plain_set, plain_turn
from imaging.errors import BadParameter
from training.cache import cached
from training.cases import Case
from training.datasets import open_dataset
from training.fit import fit
from training.phantoms import write_set
from training.prepared import Prepared
from training.recipe import SCALES, Recipe, Scale
from training.recipes import recipe as named_recipe
from training.samples import Sampler
from training.trainer import pick_device


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        recipes: keys of ``PEERS``.
        scale: of the recipes.
        repeats: turns that count.
        steps: of an epoch.
        cases, shape: number and voxels (Z, Y, X) of the phantoms.
        device: ``auto``, ``cpu`` or ``cuda``; on CUDA both sides compute in bfloat16.

    Raises:
        BadParameter: a recipe without a plain counterpart, or nothing to measure.
    """

    recipes: tuple[str, ...] = ("wang2020", "monet")
    scale: Scale = "tiny"
    repeats: int = 5
    steps: int = 5
    cases: int = 4
    shape: tuple[int, int, int] = (48, 96, 96)
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.recipes or not set(self.recipes) <= set(PEERS):
            raise BadParameter(f"recipes must be of {', '.join(PEERS)}, not {self.recipes}.")
        if min(self.repeats, self.steps, self.cases) < 1:
            raise BadParameter(
                "repeats, steps and cases must be at least 1, not "
                f"{self.repeats}, {self.steps} and {self.cases}."
            )


def main() -> int:
    """Measure, print, write."""
    default = Settings()
    parser = arguments(__doc__, default.repeats)
    parser.add_argument("--recipes", nargs="+", choices=list(PEERS), default=default.recipes)
    parser.add_argument("--scale", choices=SCALES, default=default.scale)
    parser.add_argument("--steps", type=int, default=default.steps, help="of an epoch")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default=default.device)
    args = parser.parse_args()
    settings = Settings(
        tuple(args.recipes), args.scale, args.repeats, args.steps, device=args.device
    )
    result = measure(settings)
    print(as_markdown(result.facts["recipes"]))
    return finish(result, args.json)


def measure(settings: Settings) -> Result:
    """Every recipe's steps a second on all sides, and Islet's speed over the plain side's."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_set(data, settings.cases, seed=0, shape=settings.shape)
        cases = open_dataset(data)
        found = {name: _recipe(name, settings, cases, Path(folder)) for name in settings.recipes}
    device = pick_device(settings.device)
    return Result(
        "Training, Islet's loop beside plain MONAI's",
        {f"{name}, {side}": v for name, one in found.items() for side, v in one.rates.items()},
        {f"{name}_{what}": v for name, one in found.items() for what, v in one.ratios.items()},
        unit="steps/s",
        facts={
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "settings": dataclasses.asdict(settings),
            "recipes": {name: one.facts for name, one in found.items()},
        },
    )


def as_markdown(recipes: Mapping[str, Mapping[str, Any]]) -> str:
    """What is known of each recipe beside its steps a second, as tables."""
    lines = ["| recipe | side | first epoch, s | GPU, % |", "|---|---|---|---|"]
    for name, facts in recipes.items():
        for side, row in facts["sides"].items():
            gpu = "not measured" if row["gpu"] is None else f"{row['gpu']:.0f}"
            lines.append(f"| {name} | {side} | {row['first_s']['median']:.2f} | {gpu} |")
    lines += ["", "| recipe | cases ready, s | a batch drawn, s |", "|---|---|---|"]
    for name, facts in recipes.items():
        once, drawn = (
            ", ".join(f"{k} {v:.3f}" for k, v in facts[what].items())
            for what in ("once_s", "drawing_s")
        )
        lines.append(f"| {name} | {once} | {drawn} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Found:
    """Of one recipe: steps a second of each side, a turn; ratios by what they compare; all else."""

    rates: Mapping[str, list[float]]
    ratios: Mapping[str, float]
    facts: Mapping[str, Any]


def _recipe(name: str, settings: Settings, cases: Sequence[Case], folder: Path) -> _Found:
    """All sides of one recipe."""
    whole, steps = named_recipe(name, settings.scale), settings.steps
    recipe = dataclasses.replace(whole, steps=2 * steps, steps_per_epoch=steps)
    cache = folder / "cache"
    start = time.perf_counter()
    prepared = [cached(case, recipe, cache) for case in cases]
    made = time.perf_counter()
    prepared = [cached(case, recipe, cache) for case in cases]
    opened = time.perf_counter()
    plain = plain_set(name, cases, recipe)
    once = {"plain": time.perf_counter() - opened, "made": made - start, "opened": opened - made}
    sides: dict[str, Callable[[Path], Turn]] = {
        "islet": lambda out: islet_turn(recipe, prepared, out, settings.device),
        "plain": lambda out: plain_turn(name, recipe, plain, 0, out, settings.device),
        "plain, 2 workers": lambda out: plain_turn(name, recipe, plain, 2, out, settings.device),
    }
    done = _interleaved(sides, settings.repeats, folder)
    rates = {side: [steps / turn.epoch_s for turn in each] for side, each in done.items()}
    drawing = _drawing(recipe, prepared, plain)
    ours, *theirs = (statistics.median(values) for values in rates.values())
    ratios = {
        "islet_to_plain": ours / max(theirs),
        "drawing_plain_to_islet": drawing["plain"] / drawing["islet"],
        "preparing_plain_to_islet": once["plain"] / once["made"],
        "preparing_plain_to_cached": once["plain"] / once["opened"],
    }
    facts = {
        "batch": recipe.batch,
        "patch": recipe.patch,
        "sides": {side: _row(each) for side, each in done.items()},
        "once_s": once,
        "drawing_s": drawing,
    }
    return _Found(rates, ratios, facts)


def _interleaved(
    sides: Mapping[str, Callable[[Path], Turn]], repeats: int, folder: Path
) -> dict[str, list[Turn]]:
    """Each side's trainings; every one warms up for itself."""
    done: dict[str, list[Turn]] = {side: [] for side in sides}

    def train(side: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            done[side].append(sides[side](Path(out)))
        return done[side][-1].epoch_s

    turns({side: partial(train, side) for side in sides}, repeats, warm_up=False)
    return done


def islet_turn(recipe: Recipe, cases: Sequence[Prepared], out: Path, device: str) -> Turn:
    """One training by :func:`training.fit.fit`."""
    marks = [time.perf_counter()]
    used: list[int | None] = []

    def epoch_is_done(_: dict[str, Any]) -> None:
        marks.append(time.perf_counter())
        used.append(gpu_use(pick_device(device)))

    precision = "bf16" if pick_device(device).type == "cuda" else "fp32"
    fit(recipe, cases, out, device=device, precision=precision, hook=epoch_is_done, quiet=True)
    return Turn(marks[1] - marks[0], marks[2] - marks[1], used[-1])


def _drawing(recipe: Recipe, cases: Sequence[Prepared], plain: CacheDataset) -> dict[str, float]:
    """Median seconds of a batch on either side, nothing beside it."""
    ours = map(Sampler(cases, recipe).batch, range(recipe.steps))
    theirs = iter(loader_of(recipe, plain, 0))
    sides = {"islet": timed(partial(next, ours)), "plain": timed(partial(next, theirs))}
    found = turns(sides, recipe.steps, warm_up=False)
    return {side: statistics.median(values) for side, values in found.items()}


def _row(done: Sequence[Turn]) -> dict[str, Any]:
    used = [turn.gpu for turn in done if turn.gpu is not None]
    return {
        "first_s": spread([turn.first_s for turn in done]),
        "gpu": statistics.median(used) if used else None,
    }


if __name__ == "__main__":
    sys.exit(main())
