"""What ``islet data`` and ``islet phantom`` do.

Functions take parsed arguments and return an exit code; errors of the tree go up to the front
door, which prints them. The floor loads when a command runs, not when the line is parsed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """``islet data`` and what stands below it, and ``islet phantom``."""
    data = commands.add_parser("data", help="check, make or change a data set")
    kinds = data.add_subparsers(required=True, metavar="COMMAND")
    _add_check(kinds)
    _add_made(kinds)
    _add_changed(kinds)

    made = commands.add_parser("phantom", help="write a phantom set with all its labels")
    made.set_defaults(command=phantom)
    made.add_argument("out", type=Path)
    _add_phantoms(made)


def _add_check(kinds: Any) -> None:
    look = kinds.add_parser("check", help="look for what would spoil a training")
    look.set_defaults(command=check)
    look.add_argument("folders", type=Path, nargs="+", help="data sets, looked at together")


def _add_made(kinds: Any) -> None:
    layout = kinds.add_parser("make", help="write a phantom set in a public layout")
    layout.set_defaults(command=make)
    layout.add_argument("layout", help="e.g. decathlon:liver or kits21; any other name lists them")
    layout.add_argument("out", type=Path)
    _add_phantoms(layout)
    layout.add_argument("--shape", type=int, nargs=3, metavar=("Z", "Y", "X"), help="voxels a case")


def _add_changed(kinds: Any) -> None:
    """Sets that are made of others."""
    lesions = kinds.add_parser("plant", help="copies of cases with real lesions' shapes in them")
    lesions.set_defaults(command=plant)
    _add_from(lesions)
    _add_copies(lesions)
    lesions.add_argument("--shapes-cache", type=Path, help=".npz that makes their reading fast")
    lesions.add_argument("--kinds", nargs="+", help="lesions (default: all there are shapes of)")

    organs = kinds.add_parser("reshape", help="copies of cases with other patients' organs' forms")
    organs.set_defaults(command=reshape)
    _add_from(organs)
    _add_copies(organs)

    part = kinds.add_parser("subset", help="some cases, labelled for fewer structures")
    part.set_defaults(command=subset)
    _add_from(part)
    part.add_argument("--cases", nargs="+", default=[], help="their names (default: all)")
    part.add_argument(
        "--annotated", nargs="+", default=[], help="structures to keep (default: all)"
    )

    doubt = kinds.add_parser("agree", help="labels unknown where a left-out model says otherwise")
    doubt.set_defaults(command=agree)
    _add_from(doubt)
    doubt.add_argument("--runs", type=Path, required=True, help="folder of islet crossvalidate")
    doubt.add_argument(
        "--edge-mm", type=float, default=2.0, help="half of what may differ along an edge"
    )
    doubt.add_argument(
        "--structures", nargs="+", default=[], help="that the models may doubt (default: all)"
    )


def _add_from(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", help="data sets")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a new folder")


def _add_copies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shapes", type=Path, required=True, help="folder of the label maps")
    parser.add_argument("--copies", type=int, default=1, help="of each case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--part", default="train", choices=("train", "held-out"), help="of the shapes"
    )


def _add_phantoms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--style", help="scanner style (default: a random one per case)")


def check(args: argparse.Namespace) -> int:
    """``islet data check DIR``: findings as a table; 1 where there is an error."""
    from training.check import run_check

    report, code = run_check(args.folders)
    print(report)
    return code


def make(args: argparse.Namespace) -> int:
    """``islet data make LAYOUT OUT``: phantoms in a public data set's layout."""
    from training.datasets.make import make_set

    shape = tuple(args.shape) if args.shape else None
    make_set(args.layout, args.out, args.cases, args.seed, args.style, shape)
    print(f"{args.cases} phantoms in {args.out}, laid out as {args.layout}")
    return 0


def plant(args: argparse.Namespace) -> int:
    """``islet data plant DIR -o OUT --shapes SHAPES``: cases with real lesions planted."""
    from training.datasets import open_datasets
    from training.planting import REAL, Shapes
    from training.planting.sets import plant_set

    shapes = Shapes.open(args.shapes, args.part, args.shapes_cache)
    kinds = tuple(args.kinds or REAL)
    cases = open_datasets(args.folders)
    found = plant_set(cases, args.out, shapes, args.copies, args.seed, kinds)
    print(f"{found} lesions planted in {args.out}")
    return 0


def reshape(args: argparse.Namespace) -> int:
    """``islet data reshape DIR -o OUT --shapes SHAPES``: cases whose organs have other forms."""
    from training.datasets import open_datasets
    from training.reshaping import Forms
    from training.reshaping.sets import reshape_set

    forms = Forms.open(args.shapes, args.part)
    cases = open_datasets(args.folders)
    found = reshape_set(cases, args.out, forms, args.copies, args.seed)
    print(f"{found} organs reshaped in {args.out}")
    return 0


def subset(args: argparse.Namespace) -> int:
    """``islet data subset DIR -o OUT``: some cases, labelled for fewer structures."""
    from training.datasets import open_datasets
    from training.datasets.subset import write_subset

    written = write_subset(open_datasets(args.folders), args.out, args.cases, args.annotated)
    print(f"{len(written)} cases in {args.out}: {', '.join(written)}")
    return 0


def agree(args: argparse.Namespace) -> int:
    """``islet data agree DIR --runs RUNS -o OUT``: a round of self-training's labels."""
    from training import agreement
    from training.datasets import open_datasets

    witness = agreement.left_out(args.runs)
    found = agreement.write_agreed(
        open_datasets(args.folders), args.out, witness, args.edge_mm, args.structures
    )
    print(agreement.table(found))
    return 0


def phantom(args: argparse.Namespace) -> int:
    """``islet phantom OUT``: write a labelled phantom set in the Decathlon's layout."""
    from training.phantoms import write_set

    write_set(args.out, args.cases, args.seed, args.style)
    print(f"{args.cases} phantoms in {args.out}")
    return 0
