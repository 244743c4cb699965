"""The training floor's sub-commands: arguments in, an exit code out."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imaging.errors import BadParameter
from imaging.files import write_whole
from models.export import Parity
from models.manifest import Manifest
from models.onnxfile import read_manifest
from models.store import default_store
from training.cases import Case
from training.crossvalidate import crossvalidate
from training.datasets import open_dataset
from training.evaluate import Score, evaluate, table
from training.package import onnx_scorer
from training.recipe import Recipe
from training.recipes import recipe as named_recipe
from training.runs import MODEL, export_run, train_run


def train(args: argparse.Namespace) -> int:
    """``islet train RECIPE --data DIR --out DIR``: train, then export beside the checkpoint."""
    cases = _cases(args.data)
    unknown = set(args.validate) - {c.name for c in cases}
    if unknown:
        raise BadParameter(f"--validate names {sorted(unknown)}, which no data set holds.")
    exported = train_run(
        _recipe(args),
        [c for c in cases if c.name not in args.validate],
        args.out,
        validation=[c for c in cases if c.name in args.validate],
        resume=args.resume,
        device=args.device,
        precision=args.precision,
    )
    _say(args.out / MODEL, *exported)
    return 0


def crossvalidation(args: argparse.Namespace) -> int:
    """``islet crossvalidate RECIPE --data DIR --out DIR``: one model per left-out case."""
    recipe = _recipe(args)
    scores = crossvalidate(
        recipe,
        _cases(args.data),
        args.out,
        args.only,
        device=args.device,
        precision=args.precision,
    )
    _report(f"Leave-one-out Dice of {recipe.name}, {recipe.steps} steps a model", scores, args.json)
    return 0


def evaluation(args: argparse.Namespace) -> int:
    """``islet evaluate MODEL --data DIR``: Dice per case and structure."""
    path = Path(args.model)
    if not path.is_file():
        path = default_store().resolve(args.model).path
    manifest = read_manifest(path)
    scores = evaluate(_cases(args.data), manifest, onnx_scorer(path))
    _report(f"Dice of {args.model}", scores, args.json)
    return 0


def export(args: argparse.Namespace) -> int:
    """``islet export RUN``: write a run's model as ONNX, and publish it where asked."""
    out = args.out or args.run / MODEL
    exported = export_run(args.run, out, _read_scores(args.scores))
    _say(out, *exported)
    if args.publish is not None:
        model = default_store().publish(out, args.publish or ["live"])
        print(f"published as {model.reference}")
    return 0


def phantom(args: argparse.Namespace) -> int:
    """``islet phantom OUT``: write a labelled phantom set in the Decathlon's layout."""
    from training.phantoms import write_set

    write_set(args.out, args.cases, args.seed, args.style)
    print(f"{args.cases} phantoms in {args.out}")
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    """The named recipe with the command line's changes."""
    changes = {
        name: value
        for name in ("steps", "seed", "phantoms")
        if (value := getattr(args, name)) is not None
    }
    recipe = dataclasses.replace(named_recipe(args.recipe), **changes)
    return dataclasses.replace(recipe, steps_per_epoch=min(recipe.steps_per_epoch, recipe.steps))


def _cases(folders: Sequence[Path]) -> list[Case]:
    cases = [case for folder in folders for case in open_dataset(folder)]
    names = [case.name for case in cases]
    double = sorted({n for n in names if names.count(n) > 1})
    if double:
        raise BadParameter(f"Several data sets hold a case named {double}; rename one of each.")
    return cases


def _say(path: Path, manifest: Manifest, parity: Parity) -> None:
    print(
        f"{path}: {manifest.name}, {manifest.provenance.steps} steps; ONNX differs from torch by "
        f"{parity.max_difference:.1e} at most"
    )


def _read_scores(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadParameter(f"--scores {path} is no JSON file ({error}).") from error
    # What --json writes is a list; a manifest keeps its scores by name.
    return scores if isinstance(scores, dict) else {"cases": scores}


def _report(title: str, scores: Sequence[Score], path: Path | None) -> None:
    print(f"{title}\n\n{table(scores)}")
    if path:
        write_whole(path, json.dumps([dataclasses.asdict(s) for s in scores], indent=1).encode())
