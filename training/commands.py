"""The training floor's sub-commands: arguments in, an exit code out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imaging.errors import BadParameter
from imaging.files import write_whole
from models.onnxfile import read_manifest
from models.store import default_store
from training.crossvalidate import crossvalidate
from training.datasets import open_datasets
from training.ensemble import export_ensemble
from training.evaluate import Score, as_csv, evaluate, table
from training.joining import join_files
from training.package import onnx_finder, onnx_scorer
from training.pretraining import Start, fine_tuned, start_from
from training.recipe import Recipe
from training.recipes import recipe as named_recipe
from training.runs import MODEL, Exported, export_run, train_run
from training.tracking import hooks


def train(args: argparse.Namespace) -> int:
    """``islet train RECIPE --data DIR --out DIR``: train, then export beside the checkpoint."""
    recipe = _recipe(args)
    known = [case for case in open_datasets(args.data) if case.split != "test"]
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
    start = _start(recipe, args)
    exported = train_run(
        recipe,
        cases,
        args.out,
        validation=[c for c in known if c.name in args.validate],
        start=start,
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
    start = _start(recipe, args)
    _open_files_as_allowed()
    scores = crossvalidate(
        recipe,
        [case for case in open_datasets(args.data) if case.split == "train"],
        args.out,
        args.folds,
        args.only,
        start=start,
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


def joining(args: argparse.Namespace) -> int:
    """``islet join RECIPE PART=MODEL ... --out FILE``: parts that were trained apart as a model."""
    named = dict(part.partition("=")[::2] for part in args.parts)
    manifest, parity = join_files(named_recipe(args.recipe, args.scale), named, args.out)
    _say(Exported(args.out, manifest, parity))
    return 0


def evaluation(args: argparse.Namespace) -> int:
    """``islet evaluate MODEL --data DIR``: scores per case and structure."""
    path = Path(args.model)
    if not path.is_file():
        path = default_store().resolve(args.model).path
    manifest = read_manifest(path)
    cases = [c for c in open_datasets(args.data) if args.split in ("all", c.split)]
    finder = onnx_finder(path, manifest)
    scores = evaluate(cases, manifest, onnx_scorer(path), args.surfaces, finder)
    _report(f"Dice of {args.model}", scores, args)
    if args.surfaces:
        print(f"\nSurface Dice\n\n{table(scores, 'surface_dice')}")
        print(f"\n95th percentile Hausdorff distance, mm\n\n{table(scores, 'hd95_mm')}")
    return 0


def assessment(args: argparse.Namespace) -> int:
    """``islet assess MODEL --data DIR --out DIR``: every figure of a model, and its card."""
    from training import assess

    parts = args.only or [part for part in assess.PARTS if part != "planted" or args.shapes]
    settings = assess.Settings(tuple(parts), tuple(args.labels), args.copies, args.seed)
    found = assess.assess(
        args.model,
        open_datasets(args.data),
        args.out,
        settings,
        args.shapes,
        args.beside,
        _assess_command(args),
    )
    text = assess.report(found)
    write_whole(args.out / "report.md", text.encode())
    print(text)
    if args.card:
        assumed = {"watts": args.watts, "grams_per_kwh": args.co2}
        power = assess.Power(**{name: v for name, v in assumed.items() if v is not None})
        release = assess.Release.of(args.card, args.runs, power, args.reliability)
        write_whole(args.out / "card.md", assess.card(found, release).encode())
        if args.reliability:
            write_whole(args.out / args.reliability.name, args.reliability.read_bytes())
        print(f"{args.out / 'card.md'}: the card of {args.card}")
    return 0


def calibration(args: argparse.Namespace) -> int:
    """``islet calibrate RUNS --data DIR --out DIR``: fit confidences, and write them to models."""
    from training.calibration import calibrate, figure, put_into
    from training.planting.shapes import Shapes

    shapes = None
    if args.shapes is not None:
        shapes = Shapes.open(args.shapes, "held-out", args.out / "shapes.npz")
    made = calibrate(
        args.runs, open_datasets(args.data), shapes, args.planted, args.phantoms, args.seed
    )
    print(figure.table(made))
    args.out.mkdir(parents=True, exist_ok=True)
    written = json.dumps(dataclasses.asdict(made.calibration), indent=1)
    write_whole(args.out / "calibration.json", written.encode())
    figure.draw(made, args.out / "reliability.png")
    for path in args.into:
        print(f"{path}: {put_into(path, made.calibration).name} is calibrated")
    return 0


def finder(args: argparse.Namespace) -> int:
    """``islet finder RUNS FINDERS --data DIR``: judge a finder, and put one into models' files."""
    from training import finding

    if args.into and args.finder is None:
        raise BadParameter("Name the finder that goes into the files with --finder.")
    spared = finding.judge(args.runs, args.finders, open_datasets(args.data), args.margin)
    print(finding.table(spared))
    for path in args.into:
        print(f"{path}: {finding.attach(path, args.finder, spared).name} has a finder")
    return 0


def export(args: argparse.Namespace) -> int:
    """``islet export RUN``: write a run's model as ONNX, and publish it where asked."""
    out = args.out or args.run / (f"model-{args.task}.onnx" if args.task else MODEL)
    _say(export_run(args.run, out, _read_scores(args.scores), args.task))
    if args.publish is not None:
        model = default_store().publish(out, args.publish or ["live"])
        print(f"published as {model.reference}")
    return 0


def reproduction(args: argparse.Namespace) -> int:
    """``islet reproduce TABLE --out DIR``: the paper's table beside ours, and a figure."""
    from training.reproduce import figure, finetune, kits21, monet, partial

    if args.table == "monet":
        report = monet.reproduce(
            args.out, args.scale, args.seeds, args.steps, args.data, args.outside
        )
    elif args.table == "kits21":
        report = kits21.reproduce(args.out, args.scale, args.seeds, args.steps, args.data)
    elif args.table == "finetune":
        report = finetune.reproduce(args.out, args.scale, args.seeds, args.steps)
    else:
        report = partial.reproduce(args.out, args.seeds, args.steps)
    print(report.text)
    write_whole(args.out / f"{args.table}.md", f"{report.text}\n".encode())
    figure.draw(report, report.text.partition(";")[0], args.out / f"{args.table}.png")
    return 0


def _assess_command(args: argparse.Namespace) -> str:
    """The command that makes the same assessment in a new folder."""
    options = ("data", "out", "shapes", "only", "labels", "copies", "seed", "beside")
    words = ["islet", "assess", args.model]
    for name in options:
        value = vars(args)[name]
        listed = value if isinstance(value, list) else [value]
        if value not in (None, []):
            words += [f"--{name}", *map(str, listed)]
    return shlex.join(words)


def _recipe(args: argparse.Namespace) -> Recipe:
    """The named recipe with the command line's changes."""
    changes = {
        name: value
        for name in ("steps", "seed", "phantoms", "batch")
        if (value := getattr(args, name)) is not None
    }
    recipe = named_recipe(args.recipe, args.scale)
    if args.start:
        recipe = fine_tuned(recipe)
    if recipe.phantoms and "phantoms" in changes:
        # CTs without an abdomen are made, too: as many as go with so many phantoms.
        changes["strangers"] = recipe.strangers * changes["phantoms"] // recipe.phantoms
    recipe = dataclasses.replace(recipe, **changes)
    return dataclasses.replace(recipe, steps_per_epoch=min(recipe.steps_per_epoch, recipe.steps))


def _start(recipe: Recipe, args: argparse.Namespace) -> Start | None:
    """The weights of ``--from``; says what they are."""
    if not args.start:
        return None
    start = start_from(recipe, args.start)
    print(f"{recipe.name} {start}; {recipe.steps} steps")
    return start


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
