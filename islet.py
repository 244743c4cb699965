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

from federation.commands import add_commands as add_federation
from imaging.errors import IsletError
from imaging.version import VERSION
from serving.guard.commands import add_commands as add_tokens
from serving.models_cli import add_commands as add_models
from training.data_cli import add_commands as add_data

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
    _add_service(commands)
    add_models(commands)
    add_tokens(commands)
    _add_training(commands)
    add_data(commands)
    add_federation(commands)
    return parser


def _add_serving(commands: Any) -> None:
    segment = commands.add_parser("segment", help="segment a CT, here or on a service")
    segment.set_defaults(command=_segment)
    segment.add_argument("ct", type=Path, help="NIfTI file, DICOM folder, or a zip of either")
    segment.add_argument("-o", "--out", type=Path, required=True, help="folder for the masks")
    segment.add_argument("--model", help="model, model@version or model@alias (default: starter)")
    segment.add_argument(
        "--structures", help="comma-separated masks (default: pancreas,tumor,kidney)"
    )
    segment.add_argument(
        "--outputs", help="comma-separated: nifti,seg,rtstruct,sr,report ... (default: nifti)"
    )
    segment.add_argument("--series", help="SeriesInstanceUID, where there are several")
    segment.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    segment.add_argument(
        "--doubtful", choices=("drop", "keep"), help="what the model does not trust (default: drop)"
    )
    _add_server(segment)

    jobs = commands.add_parser("jobs", help="the jobs of a service")
    kinds = jobs.add_subparsers(required=True, metavar="COMMAND")
    for action, said in (
        ("list", "the newest jobs"),
        ("show", "how far a job is"),
        ("fetch", "wait for a job and fetch its result"),
        ("cancel", "stop a job"),
    ):
        kind = kinds.add_parser(action, help=said)
        kind.set_defaults(command=_jobs, action=action)
        _add_server(kind)
        if action == "list":
            kind.add_argument("--state", help="queued, running, done, failed or cancelled")
        else:
            kind.add_argument("job", help="id of the job")
        if action == "fetch":
            kind.add_argument("-o", "--out", type=Path, help="folder (default: the job's id)")

    demo = commands.add_parser("demo", help="start the service, segment one CT over HTTP, stop")
    demo.set_defaults(command=_demo)
    demo.add_argument("ct", type=Path, nargs="?", help="a CT (default: a generated phantom)")
    demo.add_argument("-o", "--out", type=Path, default=Path("out"))


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", help="URL of a service, such as https://islet.example:3000")
    parser.add_argument(
        "--token-file", type=Path, help="file of the service's token (default: $ISLET_TOKEN)"
    )
    parser.add_argument("--ca", type=Path, help="certificates to trust (default: the system's)")


def _add_service(commands: Any) -> None:
    serve = commands.add_parser("serve", help="run the service")
    serve.set_defaults(command=_serving("serve"))
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=3000)
    serve.add_argument("--tls-cert", type=Path, help="PEM file of the service's certificate")
    serve.add_argument("--tls-key", type=Path, help="PEM file of its key")
    serve.add_argument("--tls-ca", type=Path, help="clients must show a certificate of these")

    work = commands.add_parser("work", help="run workers on a further host")
    work.set_defaults(command=_work)
    work.add_argument("--workers", type=int, help="processes (default: $ISLET_WORKERS, else 1)")

    dimse = commands.add_parser("dimse", help="take CTs in by DICOM C-STORE")
    dimse.set_defaults(command=_dimse)
    dimse.add_argument("--aet", default="ISLET", help="application entity title")
    dimse.add_argument("--host", default="127.0.0.1")
    dimse.add_argument("--port", type=int, default=11112)


def _add_training(commands: Any) -> None:
    train = commands.add_parser("train", help="train a recipe on data sets")
    train.set_defaults(command=_training("train"))
    _add_recipe(train)
    train.add_argument("--validate", nargs="*", default=[], help="names of cases to choose by")
    train.add_argument("--resume", action="store_true", help="go on where the run stopped")
    train.add_argument("--cache", type=Path, help="folder of prepared cases (default: in the run)")
    train.add_argument(
        "--track", nargs="+", default=[], help="draw its curves with tensorboard, mlflow or both"
    )
    train.add_argument("--tracking-uri", help="MLflow's server (default: a file in the run)")

    cross = commands.add_parser("crossvalidate", help="one model per left-out part, and its Dice")
    cross.set_defaults(command=_training("crossvalidation"))
    _add_recipe(cross)
    cross.add_argument("--folds", type=int, default=0, help="parts (default: one case at a time)")
    cross.add_argument("--only", nargs="*", default=[], help="names of the parts to leave out")
    _add_scores(cross)
    _add_made(commands)
    _add_judged(commands)


def _add_made(commands: Any) -> None:
    """What is made of trainings."""
    ensemble = commands.add_parser("ensemble", help="make one model of several runs")
    ensemble.set_defaults(command=_training("ensemble"))
    ensemble.add_argument("runs", type=Path, nargs="+", help="folders of trainings of one recipe")
    ensemble.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file")

    join = commands.add_parser("join", help="make one model of trained parts, as starter is made")
    join.set_defaults(command=_training("joining"))
    join.add_argument("recipe", help="of the whole: starter")
    join.add_argument(
        "parts", nargs="+", metavar="PART=MODEL", help="e.g. organs=RUN; as for train --from"
    )
    join.add_argument("--scale", default="paper", choices=("tiny", "small", "paper"))
    join.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file")

    export = commands.add_parser("export", help="write a run's model as ONNX")
    export.set_defaults(command=_training("export"))
    export.add_argument("run", type=Path, help="folder of a training")
    export.add_argument("-o", "--out", type=Path, help="the .onnx file (default: in the run)")
    export.add_argument("--task", help="of a dynamic head, e.g. pancreas")
    export.add_argument("--scores", type=Path, help="JSON to keep in the manifest as its scores")
    export.add_argument(
        "--publish", nargs="*", metavar="ALIAS", help="into the store, under these aliases (live)"
    )

    reproduce = commands.add_parser("reproduce", help="print a paper's table beside ours")
    reproduce.set_defaults(command=_training("reproduction"))
    reproduce.add_argument("table", choices=("monet", "kits21", "partial-labels", "finetune"))
    reproduce.add_argument("-o", "--out", type=Path, required=True, help="folder of its trainings")
    reproduce.add_argument("--data", type=Path, nargs="*", default=[], help="real data sets")
    reproduce.add_argument("--outside", type=Path, nargs="*", default=[], help="of another source")
    reproduce.add_argument("--scale", default="tiny", choices=("tiny", "small", "paper"))
    reproduce.add_argument("--seeds", type=int, default=3)
    reproduce.add_argument("--steps", type=int)


def _add_judged(commands: Any) -> None:
    """What can be said of models."""
    evaluate = commands.add_parser("evaluate", help="scores of a model on labelled cases")
    evaluate.set_defaults(command=_training("evaluation"))
    evaluate.add_argument("model", help="an .onnx file, or a model of the store")
    evaluate.add_argument("--data", type=Path, nargs="+", required=True)
    evaluate.add_argument("--split", default="all", choices=("all", "train", "validation", "test"))
    evaluate.add_argument(
        "--surfaces", action="store_true", help="surface Dice, Hausdorff distance"
    )
    _add_scores(evaluate)

    _add_assess(commands)

    calibrate = commands.add_parser("calibrate", help="fit how far a model is to be believed")
    calibrate.set_defaults(command=_training("calibration"))
    calibrate.add_argument("runs", help="folder of a crossvalidation, or a model that saw no case")
    calibrate.add_argument("--data", type=Path, nargs="+", required=True)
    calibrate.add_argument("-o", "--out", type=Path, required=True, help="folder of its files")
    calibrate.add_argument("--shapes", type=Path, help="real lesions' shapes (default: none)")
    calibrate.add_argument("--planted", type=int, default=4, help="copies a case with lesions")
    calibrate.add_argument("--phantoms", type=int, default=4, help="phantoms with lesions a case")
    calibrate.add_argument("--seed", type=int, default=0)
    calibrate.add_argument(
        "--into",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help=".onnx files to write it to",
    )

    finder = commands.add_parser("finder", help="judge finders, and put one into models' files")
    finder.set_defaults(command=_training("finder"))
    finder.add_argument("runs", help="folder of a crossvalidation, or a model that saw no case")
    finder.add_argument("finders", help="the same of a recipe that sees a coarser grid")
    finder.add_argument("--data", type=Path, nargs="+", required=True)
    finder.add_argument("--margin", type=float, default=60.0, help="mm around what it finds")
    finder.add_argument("--finder", type=Path, help="the .onnx file to put into others")
    finder.add_argument(
        "--into", type=Path, nargs="+", default=[], metavar="FILE", help=".onnx files to write"
    )


def _add_assess(commands: Any) -> None:
    assess = commands.add_parser("assess", help="all that can be said of a model, and its card")
    assess.set_defaults(command=_training("assessment"))
    assess.add_argument(
        "model", help="folder of a crossvalidation, an .onnx file, or a model of the store"
    )
    assess.add_argument("--data", type=Path, nargs="+", required=True)
    assess.add_argument("-o", "--out", type=Path, required=True, help="folder of its files")
    assess.add_argument("--shapes", type=Path, help="real lesions' shapes (default: none planted)")
    assess.add_argument(
        "--only", nargs="+", default=[], help="of: tables planted robustness gallery"
    )
    assess.add_argument("--labels", nargs="+", default=[], help="structures (default: all)")
    assess.add_argument("--copies", type=int, default=8, help="of each case, with lesions planted")
    assess.add_argument("--seed", type=int, default=0)
    assess.add_argument(
        "--beside", nargs="+", default=[], metavar="MODEL", help="others, for Dice against seconds"
    )
    assess.add_argument("--card", metavar="MODEL", help="write the card of this model too")
    assess.add_argument("--runs", type=Path, nargs="+", default=[], help="the card's trainings")
    assess.add_argument("--reliability", type=Path, help="plot of islet calibrate, for the card")
    assess.add_argument("--watts", type=float, help="of the machine that trained it")
    assess.add_argument("--co2", type=float, help="g a kWh where it was trained")


def _add_scores(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="write the scores here too")
    parser.add_argument("--csv", type=Path, help="write the scores here too, a line a case")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="name of a recipe, e.g. starter or monet")
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="data set folders")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--scale", default="paper", choices=("tiny", "small", "paper"), help="size of the training"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="weights to start from: a model of the store, an .onnx file, a run or its checkpoint",
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--phantoms", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))


def _serving(name: str) -> Command:
    def run(args: argparse.Namespace) -> int:
        from serving import commands

        return int(getattr(commands, name)(args))

    return run


def _segment(args: argparse.Namespace) -> int:
    if args.server:
        from serving.remote import segment as segment_there

        return segment_there(args)
    return _serving("segment")(args)


def _jobs(args: argparse.Namespace) -> int:
    from serving.remote import jobs

    return jobs(args)


def _work(args: argparse.Namespace) -> int:
    from serving.workers.commands import work

    return work(args)


def _dimse(args: argparse.Namespace) -> int:
    from serving.pacs.commands import dimse

    return dimse(args)


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
