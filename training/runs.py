"""A training's folder: what was trained on what, its checkpoints, its exported model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging.errors import DataError
from imaging.files import write_whole
from models.export import Parity
from models.manifest import Manifest, Provenance
from training import checkpoint
from training.cases import Case, Loaded, load
from training.fit import fit, initial_network
from training.package import export_recipe, manifest_of, provenance_of
from training.phantoms import make_phantom
from training.recipe import Recipe
from training.samples import Prepared, prepare

MODEL, DESCRIPTION = "model.onnx", "run.json"
# Phantoms of a training are seeded from here on, far from those a user makes to look at.
_PHANTOM_SEED = 1_000_000


@dataclass(frozen=True)
class Run:
    """What a run's folder says of it: the recipe and where its weights come from."""

    recipe: Recipe
    provenance: Provenance


def train_run(
    recipe: Recipe,
    cases: Sequence[Case],
    out: Path,
    *,
    validation: Sequence[Case] = (),
    phantoms: Sequence[Prepared] | None = None,
    **options: Any,
) -> tuple[Manifest, Parity]:
    """Train a recipe on cases and export the result to ``out/model.onnx``.

    Args:
        recipe: what to train.
        cases, validation: to learn from and to choose by.
        out: the run's folder.
        phantoms: the recipe's phantoms where they are already made.
        options: of :func:`training.fit.fit`.

    Raises:
        BadManifest: the model could not be exported with such a recipe; before any training.
        DataError: of :func:`training.cases.load` and :func:`training.fit.fit`.
    """
    manifest_of(recipe)
    phantoms = make_phantoms(recipe) if phantoms is None else phantoms
    real = [prepare(load(case), recipe) for case in cases]
    result = fit(
        recipe,
        [*real, *phantoms],
        out,
        validation=[prepare(load(case), recipe) for case in validation],
        **options,
    )
    provenance = provenance_of(recipe, cases, len(phantoms), result.steps)
    _describe(Run(recipe, provenance), out)
    return export_recipe(result.network, recipe, provenance, out / MODEL, real[:1] or phantoms[:1])


def export_run(
    out: Path, onnx: Path, scores: dict[str, Any] | None = None
) -> tuple[Manifest, Parity]:
    """Export a finished run's checkpoint (the best, where it validated) once more.

    Raises:
        DataError: no run there.
    """
    run = describe(out)
    best = out / checkpoint.BEST
    saved = checkpoint.load(best if best.exists() else out / checkpoint.LAST)
    network = initial_network(run.recipe)
    network.load_state_dict(saved.network)
    return export_recipe(network, run.recipe, run.provenance, onnx, (), scores)


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


def make_phantoms(recipe: Recipe) -> list[Prepared]:
    """The phantoms a recipe trains on, made at its resolution."""
    made = []
    spacing = _phantom_spacing(recipe)
    first = _PHANTOM_SEED * (recipe.seed + 1)
    for index in range(recipe.phantoms):
        phantom = make_phantom(first + index, spacing_mm=spacing)
        case = Loaded(f"phantom-{index}", phantom.volume, phantom.labels, phantom.annotated)
        made.append(prepare(case, recipe, phantom=True))
    return made


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
