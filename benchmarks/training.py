"""Training throughput of Islet's loop, beside the same training as plain MONAI is written.

    python -m benchmarks.training [--recipes wang2020 monet] [--repeats N] [--json FILE]

Both sides train the same network with the same batch, loss, optimizer and precision on the same
phantoms, turn by turn in one process. A turn is a new training of two epochs: the first is the
warm-up, the second is counted, its checkpoint included. The plain side is a CacheDataset with
MONAI's dictionary transforms; the better of loading in the process and in two workers counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
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

from benchmarks.plain import PEERS, Turn, gpu_use, loader_of, plain_set, plain_turn
from imaging.errors import BadParameter
from imaging.threads import usable_cores
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
    args = _arguments()
    settings = Settings(
        tuple(args.recipes), args.scale, args.repeats, args.steps, device=args.device
    )
    result = measure(settings)
    print(as_markdown(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0


def measure(settings: Settings) -> dict[str, Any]:
    """Every recipe's figures and, under ``ratios``, Islet's speed over the plain side's."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_set(data, settings.cases, seed=0, shape=settings.shape)
        cases = open_dataset(data)
        found = {name: _recipe(name, settings, cases, Path(folder)) for name in settings.recipes}
    device = pick_device(settings.device)
    return {
        "machine": {
            "cores": usable_cores(),
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "torch": torch.__version__,
        },
        "settings": dataclasses.asdict(settings),
        "recipes": found,
        "ratios": {
            f"{name} {what}": ratio
            for name, figures in found.items()
            for what, ratio in figures.pop("ratios").items()
        },
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The figures as tables."""
    lines = ["| recipe | side | steps/s (min, median, max) | first epoch, s | GPU, % |"]
    lines += ["|---|---|---|---|---|"]
    for name, figures in result["recipes"].items():
        for side, row in figures["sides"].items():
            rate = ", ".join(f"{row['steps_per_s'][k]:.2f}" for k in ("min", "median", "max"))
            gpu = "not measured" if row["gpu"] is None else f"{row['gpu']:.0f}"
            lines.append(f"| {name} | {side} | {rate} | {row['first_s']['median']:.2f} | {gpu} |")
    lines += ["", "| recipe | cases ready, s | a batch drawn, s |", "|---|---|---|"]
    for name, figures in result["recipes"].items():
        once, drawn = (
            ", ".join(f"{k} {v:.3f}" for k, v in figures[what].items())
            for what in ("once_s", "drawing_s")
        )
        lines.append(f"| {name} | {once} | {drawn} |")
    lines += ["", "| Islet's speed over plain MONAI's | ratio |", "|---|---|"]
    lines += [f"| {what} | {ratio:.2f} |" for what, ratio in result["ratios"].items()]
    return "\n".join(lines)


def _recipe(name: str, settings: Settings, cases: Sequence[Case], folder: Path) -> dict[str, Any]:
    """Both sides of one recipe."""
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
    rows = _interleaved(sides, settings, folder)
    drawing = _drawing(recipe, prepared, plain)
    ours, *theirs = (row["steps_per_s"]["median"] for row in rows.values())
    return {
        "batch": recipe.batch,
        "patch": recipe.patch,
        "sides": rows,
        "once_s": once,
        "drawing_s": drawing,
        "ratios": {
            "steps per second": ours / max(theirs),
            "drawing a batch": drawing["plain"] / drawing["islet"],
            "cases prepared": once["plain"] / once["made"],
            "cases out of the cache": once["plain"] / once["opened"],
        },
    }


def _interleaved(
    sides: Mapping[str, Callable[[Path], Turn]], settings: Settings, folder: Path
) -> dict[str, Any]:
    """Each side's figures over all turns."""
    turns: dict[str, list[Turn]] = {side: [] for side in sides}
    for _ in range(settings.repeats):
        for side, turn in sides.items():
            with tempfile.TemporaryDirectory(dir=folder) as out:
                turns[side].append(turn(Path(out)))
    return {side: _row(done, settings.steps) for side, done in turns.items()}


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
    sampler, loader = Sampler(cases, recipe), iter(loader_of(recipe, plain, 0))
    found: dict[str, list[float]] = {"islet": [], "plain": []}
    for step in range(recipe.steps):
        found["islet"].append(_seconds(partial(sampler.batch, step)))
        found["plain"].append(_seconds(partial(next, loader)))
    return {side: statistics.median(values) for side, values in found.items()}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _row(turns: Sequence[Turn], steps: int) -> dict[str, Any]:
    used = [turn.gpu for turn in turns if turn.gpu is not None]
    return {
        "steps_per_s": _spread([steps / turn.epoch_s for turn in turns]),
        "first_s": _spread([turn.first_s for turn in turns]),
        "gpu": statistics.median(used) if used else None,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _arguments() -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipes", nargs="+", choices=list(PEERS), default=default.recipes)
    parser.add_argument("--scale", choices=SCALES, default=default.scale)
    parser.add_argument("--repeats", type=int, default=default.repeats)
    parser.add_argument("--steps", type=int, default=default.steps, help="of an epoch")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default=default.device)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
