"""The command line's front door: sub-commands, each importing its floor only when called."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imaging.errors import IsletError
from imaging.version import VERSION

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; an :class:`IsletError` is printed as a sentence and exits with 2."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    args = _parser().parse_args(argv)
    command: Command = args.command
    try:
        return command(args)
    except IsletError as error:
        print(f"islet: {error.code}: {error.message}", file=sys.stderr)
        if args.debug:
            print(json.dumps(error.as_dict()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="islet", description="CT in, masks out.")
    parser.add_argument("--version", action="version", version=f"islet {VERSION}")
    parser.add_argument("--debug", action="store_true", help="print an error's details as JSON too")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serving(commands)
    _add_training(commands)
    return parser


def _add_serving(commands: Any) -> None:
    segment = commands.add_parser("segment", help="segment a CT into masks and a report")
    segment.set_defaults(command=_serving("segment"))
    segment.add_argument("ct", type=Path, help="NIfTI file, DICOM folder, or a zip of either")
    segment.add_argument("-o", "--out", type=Path, required=True, help="folder for the masks")
    segment.add_argument("--model", help="model, model@version or model@alias (default: starter)")
    segment.add_argument(
        "--structures", help="comma-separated masks (default: pancreas,tumor,kidney)"
    )
    segment.add_argument("--series", help="SeriesInstanceUID, where there are several")
    segment.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))

    demo = commands.add_parser("demo", help="start the service, segment one CT over HTTP, stop")
    demo.set_defaults(command=_demo)
    demo.add_argument("ct", type=Path, nargs="?", help="a CT (default: a generated phantom)")
    demo.add_argument("-o", "--out", type=Path, default=Path("out"))

    serve = commands.add_parser("serve", help="run the service")
    serve.set_defaults(command=_serving("serve"))
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=3000)

    models = commands.add_parser("models", help="list the models in the store")
    models.set_defaults(command=_serving("models"))


def _add_training(commands: Any) -> None:
    train = commands.add_parser("train", help="train a recipe on data sets")
    train.set_defaults(command=_training("train"))
    _add_recipe(train)
    train.add_argument("--validate", nargs="*", default=[], help="names of cases to choose by")
    train.add_argument("--resume", action="store_true", help="go on where the run stopped")

    cross = commands.add_parser("crossvalidate", help="one model per left-out case, and its Dice")
    cross.set_defaults(command=_training("crossvalidation"))
    _add_recipe(cross)
    cross.add_argument("--only", nargs="*", default=[], help="names of the cases to leave out")
    cross.add_argument("--json", type=Path, help="write the scores here too")

    evaluate = commands.add_parser("evaluate", help="Dice of a model on labelled cases")
    evaluate.set_defaults(command=_training("evaluation"))
    evaluate.add_argument("model", help="an .onnx file, or a model of the store")
    evaluate.add_argument("--data", type=Path, nargs="+", required=True)
    evaluate.add_argument("--json", type=Path, help="write the scores here too")

    export = commands.add_parser("export", help="write a run's model as ONNX")
    export.set_defaults(command=_training("export"))
    export.add_argument("run", type=Path, help="folder of a training")
    export.add_argument("-o", "--out", type=Path, help="the .onnx file (default: in the run)")
    export.add_argument("--scores", type=Path, help="JSON to keep in the manifest as its scores")
    export.add_argument(
        "--publish", nargs="*", metavar="ALIAS", help="into the store, under these aliases (live)"
    )

    phantom = commands.add_parser("phantom", help="write a labelled phantom set")
    phantom.set_defaults(command=_training("phantom"))
    phantom.add_argument("out", type=Path)
    phantom.add_argument("--cases", type=int, default=4)
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--style", help="scanner style (default: a random one per case)")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="name of a recipe, e.g. starter or monet")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data set folders")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--phantoms", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))


def _serving(name: str) -> Command:
    def run(args: argparse.Namespace) -> int:
        from serving import commands

        return int(getattr(commands, name)(args))

    return run


def _training(name: str) -> Command:
    def run(args: argparse.Namespace) -> int:
        from training import commands

        return int(getattr(commands, name)(args))

    return run


def _demo(args: argparse.Namespace) -> int:
    """The demo belongs to serving; the phantom it may need, to training."""
    from serving import commands

    if args.ct is not None:
        return commands.demo(args)
    from imaging.writers.nifti import write_nifti
    from training.phantoms import make_phantom

    with tempfile.TemporaryDirectory() as folder:
        args.ct = Path(folder) / "phantom.nii.gz"
        write_nifti(make_phantom(7, "a-thin-portal", tumors=True).volume, args.ct)
        return commands.demo(args)


if __name__ == "__main__":
    sys.exit(main())
