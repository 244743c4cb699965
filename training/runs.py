"""A training's folder: what was trained on what, its checkpoints, its exported models."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from imaging.errors import BadParameter, DataError
from imaging.files import write_whole
from models.export import Parity
from models.manifest import Manifest, Provenance
from training import checkpoint
from training.cache import cached
from training.cases import Case, Loaded
from training.fit import fit
from training.joining import join
from training.package import export_recipe, manifest_of, provenance_of, structures_of, task_name
from training.phantoms import ANNOTATED, PAINTED, make_phantom
from training.phantoms.sets import stranger_series
from training.prepared import Prepared, prepare
from training.pretraining import RUN, Start, start_from, weights_of
from training.recipe import Recipe
from training.recipes import beside
from training.trainer import initial_network
from training.world import processes

MODEL, DESCRIPTION = "model.onnx", RUN
PRETRAINING, CACHE = "pretraining", "cache"
# Phantoms of a training are seeded from here on, far from those a user makes to look at.
_PHANTOM_SEED = 1_000_000
# How many a training without a single case is given.
_PHANTOMS_ALONE = 8


@dataclass(frozen=True)
class Run:
    """What a run's folder says of it: the recipe and where its weights come from."""

    recipe: Recipe
    provenance: Provenance


@dataclass(frozen=True)
class Exported:
    """A model that a training wrote: its file, what it says of itself, how near torch it is."""

    path: Path
    manifest: Manifest
    parity: Parity


def train_run(
    recipe: Recipe,
    cases: Sequence[Case],
    out: Path,
    *,
    validation: Sequence[Case] = (),
    phantoms: Sequence[Prepared] | None = None,
    start: Start | None = None,
    cache: Path | None = None,
    **options: Any,
) -> list[Exported]:
    """Train a recipe on cases and export the result: ``out/model.onnx``, or one file a task.

    Args:
        recipe: what to train.
        cases, validation: to learn from and to choose by; without any, phantoms take their place.
        out: the run's folder.
        phantoms: the recipe's phantoms where they are already made; parts have their own.
        start: weights to start from, of :func:`training.pretraining.start_from`. A recipe that
            starts from another one's weights trains that one first where they are not given, on
            the same cases, in ``out/pretraining``. One with parts that starts from nothing
            trains each of them, in ``out/PART``, and is joined from them.
        cache: folder of prepared cases, by default ``out/cache``.
        options: of :func:`training.fit.fit`.

    Returns:
        The models; none in a process that does not lead the training.

    Raises:
        BadManifest: the model could not be exported with such a recipe; before any training.
        BadParameter: several processes would train parts.
        DataError: of :func:`training.cases.load` and :func:`training.fit.fit`.
    """
    for task in range(len(recipe.tasks)) if recipe.tasks else (None,):
        manifest_of(recipe, task=task)
    cache = cache or out / CACHE
    if recipe.parts and start is None:
        return _train_parts(recipe, cases, out, validation, cache, options)
    if phantoms is None:
        phantoms = make_phantoms(recipe, alone=not cases)
    prepared = [*(cached(case, recipe, cache) for case in cases), *phantoms]
    if start is None and recipe.pretrain:
        start = _pretrained(recipe, cases, out, cache, options)
    result = fit(
        recipe,
        prepared,
        out,
        validation=[cached(case, recipe, cache) for case in validation],
        initial=start.state if start else None,
        **options,
    )
    if not result.leads:
        return []
    provenance = provenance_of(recipe, cases, len(phantoms), result.steps)
    if start:
        provenance = dataclasses.replace(provenance, data=(*provenance.data, *start.data))
    run = Run(recipe, provenance)
    exported = _export(run, result.network, prepared, out)
    # Last: a folder with a description holds a finished training.
    _describe(run, out)
    return exported


def export_run(
    out: Path, onnx: Path, scores: dict[str, Any] | None = None, task: str | None = None
) -> Exported:
    """Export a finished run's checkpoint (the best, where it validated) once more.

    Args:
        out: the run's folder.
        onnx: the file to write.
        scores: to keep in the manifest.
        task: of a network with a dynamic head, the name of the one to fold in.

    Raises:
        DataError: no run there, or no such task.
    """
    run = describe(out)
    recipe = run.recipe
    tasks = {task_name(recipe, index): index for index in range(len(recipe.tasks))}
    if bool(tasks) != (task is not None) or (tasks and task not in tasks):
        raise DataError(
            f"{recipe.name} has the tasks {', '.join(tasks)}; name one with --task."
            if tasks
            else f"{recipe.name} has no tasks; leave --task out."
        )
    network = initial_network(recipe)
    network.load_state_dict(checkpoint.load(weights_of(out)).network)
    chosen = tasks[task] if task is not None else None
    return Exported(onnx, *export_recipe(network, recipe, run.provenance, onnx, (), scores, chosen))


def describe(out: Path) -> Run:
    """What a run's folder holds.

    Raises:
        DataError: no finished run there.
    """
    try:
        raw = json.loads((out / DESCRIPTION).read_text(encoding="utf-8"))
        recipe = Recipe.from_json(json.dumps(raw["recipe"]))
        return Run(recipe, Provenance(**raw["provenance"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{out} holds no finished training ({error}); name a run's folder."
        ) from error


def models_of(out: Path) -> list[Path]:
    """The models that a run's folder holds: one, or one for each task."""
    return sorted(out.glob("model*.onnx"))


def make_phantoms(recipe: Recipe, alone: bool = False) -> list[Prepared]:
    """The phantoms a recipe trains on, made at its resolution, and its CTs without an abdomen.

    With a dynamic head each phantom is labelled for one task, as the sets it learns from are.

    Args:
        recipe: how many, and for what.
        alone: there is no other case to train on.
    """
    made = []
    spacing = _phantom_spacing(recipe)
    first = _PHANTOM_SEED * (recipe.seed + 1)
    for index in range(recipe.phantoms or (_PHANTOMS_ALONE if alone else 0)):
        named = _named_in_phantom(recipe, index)
        phantom = make_phantom(first + index, spacing_mm=spacing, structures=named)
        case = Loaded(f"phantom-{index}", phantom.volume, phantom.labels, phantom.annotated)
        made.append(prepare(case, recipe, phantom=True))
    return made + _make_strangers(recipe, first)


def _make_strangers(recipe: Recipe, seed: int) -> list[Prepared]:
    """CTs without an abdomen, in which every structure is known to be absent."""
    made = enumerate(stranger_series(recipe.strangers, seed, recipe.outputs))
    cases = (Loaded(f"stranger-{i}", s.volume, s.labels, s.annotated) for i, s in made)
    return [prepare(case, recipe, phantom=True) for case in cases]


def _train_parts(
    recipe: Recipe,
    cases: Sequence[Case],
    out: Path,
    validation: Sequence[Case],
    cache: Path,
    options: dict[str, Any],
) -> list[Exported]:
    """Each part's training, where it is not there, and the model that is joined from them."""
    if processes() > 1:
        raise BadParameter(
            f"{recipe.name} is joined from {', '.join(recipe.parts.values())}; train these with "
            "torchrun and put them together with `islet join`."
        )
    again = options | {"resume": True}
    for part in recipe.parts:
        if not (out / part / DESCRIPTION).exists():
            own = beside(recipe.parts[part], recipe)
            train_run(own, cases, out / part, validation=validation, cache=cache, **again)
    network, provenance = join(recipe, {part: out / part for part in recipe.parts})
    state = network.state_dict()
    whole = checkpoint.Checkpoint(recipe.to_json(), 0, state, {}, {}, (math.inf, 0))
    checkpoint.save(whole, out / checkpoint.LAST)
    run = Run(recipe, provenance)
    exported = _export(run, network, [cached(case, recipe, cache) for case in cases[:1]], out)
    _describe(run, out)
    return exported


def _pretrained(
    recipe: Recipe, cases: Sequence[Case], out: Path, cache: Path, options: dict[str, Any]
) -> Start:
    """The weights of a recipe's own pretraining, which is trained here where it is not there."""
    before = out / PRETRAINING
    if not (before / DESCRIPTION).exists():
        again = options | {"resume": True, "hook": None}
        train_run(beside(recipe.pretrain, recipe), cases, before, cache=cache, **again)
    return start_from(recipe, before)


def _export(run: Run, network: nn.Module, seen: Sequence[Prepared], out: Path) -> list[Exported]:
    """Every model of a run: one, or one for each task that its cases trained."""
    recipe = run.recipe
    if not recipe.tasks:
        path = out / MODEL
        return [Exported(path, *export_recipe(network, recipe, run.provenance, path, seen[:1]))]
    made = []
    for task in _trained_tasks(recipe, seen):
        path = out / f"model-{task_name(recipe, task)}.onnx"
        found = export_recipe(network, recipe, run.provenance, path, seen[:1], task=task)
        made.append(Exported(path, *found))
    return made


def _trained_tasks(recipe: Recipe, seen: Sequence[Prepared]) -> Iterator[int]:
    for task in range(len(recipe.tasks)):
        if any(set(structures_of(recipe, task)) <= set(case.annotated) for case in seen):
            yield task


def _named_in_phantom(recipe: Recipe, index: int) -> tuple[str, ...]:
    """What the labels of a recipe's phantom name."""
    if recipe.tasks:
        return structures_of(recipe, index % len(recipe.tasks))
    extra = [name for name in recipe.outputs if name in PAINTED and name not in ANNOTATED]
    return (*ANNOTATED, *extra)


def _phantom_spacing(recipe: Recipe) -> tuple[float, float, float] | None:
    """A phantom drawn at the recipe's own spacing needs no resampling."""
    z, y, x = recipe.sampling.spacing_mm
    return None if z is None or y is None or x is None else (z, y, x)


def _describe(run: Run, out: Path) -> None:
    raw = {
        "recipe": json.loads(run.recipe.to_json()),
        "provenance": dataclasses.asdict(run.provenance),
    }
    write_whole(out / DESCRIPTION, json.dumps(raw, indent=1, sort_keys=True).encode())
