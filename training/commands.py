"""The training floor's sub-commands: arguments in, an exit code out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imaging.errors import BadParameter
from imaging.files import write_whole
from models.onnxfile import read_manifest
from models.store import default_store
from training.cases import Case
from training.check import run_check
from training.crossvalidate import crossvalidate
from training.datasets import open_dataset
from training.datasets.make import make_set
from training.ensemble import export_ensemble
from training.evaluate import Score, as_csv, evaluate, table
from training.package import onnx_scorer
from training.recipe import Recipe
from training.recipes import recipe as named_recipe
from training.runs import MODEL, Exported, export_run, train_run
from training.tracking import hooks


def train(args: argparse.Namespace) -> int:
    """``islet train RECIPE --data DIR --out DIR``: train, then export beside the checkpoint."""
    recipe = _recipe(args)
    known = [case for case in _cases(args.data) if case.split != "test"]
    _open_files_as_allowed()
    unknown = set(args.validate) - {c.name for c in known}
    if unknown:
        raise BadParameter(
            f"--validate names {sorted(unknown)}, which no data set holds but for testing."
        )
    cases = [c for c in known if c.split == "train" and c.name not in args.validate]
    if not cases:
        print(
            f"No --data: {recipe.name} trains on phantoms; what it learns is good for nothing else."
        )
    exported = train_run(
        recipe,
        cases,
        args.out,
        validation=[c for c in known if c.name in args.validate],
        pretrained=args.pretrained,
        cache=args.cache,
        resume=args.resume,
        hook=hooks(args.track, args.out, recipe, args.tracking_uri),
        device=args.device,
        precision=args.precision,
    )
    for model in exported:
        _say(model)
    return 0


def crossvalidation(args: argparse.Namespace) -> int:
    """``islet crossvalidate RECIPE --data DIR --out DIR``: one model per left-out part."""
    recipe = _recipe(args)
    _open_files_as_allowed()
    scores = crossvalidate(
        recipe,
        [case for case in _cases(args.data) if case.split == "train"],
        args.out,
        args.folds,
        args.only,
        pretrained=args.pretrained,
        device=args.device,
        precision=args.precision,
    )
    way = f"{args.folds}-fold" if args.folds else "Leave-one-out"
    _report(f"{way} Dice of {recipe.name}, {recipe.steps} steps a model", scores, args)
    return 0


def ensemble(args: argparse.Namespace) -> int:
    """``islet ensemble RUN RUN --out FILE``: the runs' mean probabilities as one model."""
    _say(export_ensemble(args.runs, args.out))
    return 0


def evaluation(args: argparse.Namespace) -> int:
    """``islet evaluate MODEL --data DIR``: scores per case and structure."""
    path = Path(args.model)
    if not path.is_file():
        path = default_store().resolve(args.model).path
    manifest = read_manifest(path)
    cases = [c for c in _cases(args.data) if args.split in ("all", c.split)]
    scores = evaluate(cases, manifest, onnx_scorer(path), args.surfaces)
    _report(f"Dice of {args.model}", scores, args)
    if args.surfaces:
        print(f"\nSurface Dice\n\n{table(scores, 'surface_dice')}")
        print(f"\n95th percentile Hausdorff distance, mm\n\n{table(scores, 'hd95_mm')}")
    return 0


def export(args: argparse.Namespace) -> int:
    """``islet export RUN``: write a run's model as ONNX, and publish it where asked."""
    out = args.out or args.run / (f"model-{args.task}.onnx" if args.task else MODEL)
    _say(export_run(args.run, out, _read_scores(args.scores), args.task))
    if args.publish is not None:
        model = default_store().publish(out, args.publish or ["live"])
        print(f"published as {model.reference}")
    return 0


def check_data(args: argparse.Namespace) -> int:
    """``islet data check DIR``: findings as a table; 1 where there is an error."""
    report, code = run_check(args.folders)
    print(report)
    return code


def make_data(args: argparse.Namespace) -> int:
    """``islet data make LAYOUT OUT``: phantoms in a public data set's layout."""
    shape = tuple(args.shape) if args.shape else None
    make_set(args.layout, args.out, args.cases, args.seed, args.style, shape)
    print(f"{args.cases} phantoms in {args.out}, laid out as {args.layout}")
    return 0


def phantom(args: argparse.Namespace) -> int:
    """``islet phantom OUT``: write a labelled phantom set in the Decathlon's layout."""
    from training.phantoms import write_set

    write_set(args.out, args.cases, args.seed, args.style)
    print(f"{args.cases} phantoms in {args.out}")
    return 0


def reproduction(args: argparse.Namespace) -> int:
    """``islet reproduce TABLE --out DIR``: the paper's table beside ours, and a figure."""
    from training.reproduce import figure, kits21, monet, partial

    if args.table == "monet":
        report = monet.reproduce(
            args.out, args.scale, args.seeds, args.steps, args.data, args.outside
        )
    elif args.table == "kits21":
        report = kits21.reproduce(args.out, args.scale, args.seeds, args.steps, args.data)
    else:
        report = partial.reproduce(args.out, args.seeds, args.steps)
    print(report.text)
    write_whole(args.out / f"{args.table}.md", f"{report.text}\n".encode())
    figure.draw(report, report.text.partition(";")[0], args.out / f"{args.table}.png")
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    """The named recipe with the command line's changes."""
    changes = {
        name: value
        for name in ("steps", "seed", "phantoms", "batch")
        if (value := getattr(args, name)) is not None
    }
    recipe = dataclasses.replace(named_recipe(args.recipe, args.scale), **changes)
    return dataclasses.replace(recipe, steps_per_epoch=min(recipe.steps_per_epoch, recipe.steps))


def _cases(folders: Sequence[Path]) -> list[Case]:
    cases = [case for folder in folders for case in open_dataset(folder)]
    names = [case.name for case in cases]
    double = sorted({n for n in names if names.count(n) > 1})
    if double:
        raise BadParameter(f"Several data sets hold a case named {double}; rename one of each.")
    return cases


def _open_files_as_allowed() -> None:
    """Prepared cases are mapped files, two a case; the usual limit ends at some 500 cases."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _say(model: Exported) -> None:
    print(
        f"{model.path}: {model.manifest.name}, {model.manifest.provenance.steps} steps; ONNX "
        f"differs from torch by {model.parity.max_difference:.1e} at most"
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


def _report(title: str, scores: Sequence[Score], args: argparse.Namespace) -> None:
    print(f"{title}\n\n{table(scores)}")
    if args.json:
        found = [dataclasses.asdict(s) for s in scores]
        write_whole(args.json, json.dumps(found, indent=1).encode())
    if args.csv:
        write_whole(args.csv, as_csv(scores).encode())
