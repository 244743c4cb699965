"""What ``islet segment``, ``serve``, ``models`` and ``demo`` do.

Functions take parsed arguments and return an exit code; errors of the tree go up to the front
door, which prints them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from imaging.files import write_whole
from models.store import Store, default_store
from serving.options import Options, split_masks
from serving.settings import Settings


def segment(args: argparse.Namespace) -> int:
    """Segment a CT into a folder: the label map, the masks and the report.

    Args:
        args: ``ct`` (file, folder or archive), ``out`` (folder), ``model``, ``structures``
            (mask names with commas), ``series``, ``device``; ``None`` takes the default.
    """
    # onnxruntime and the readers load here, not when the command line is parsed.
    from serving.engine import Engines
    from serving.report import table
    from serving.segment import REPORT, files
    from serving.segment import segment as run

    settings = Settings.from_environment()
    options = Options(
        model=args.model or settings.model,
        masks=split_masks([args.structures or ""]),
        series=args.series,
        device=args.device or settings.device,
    )
    engines = Engines(default_store(), settings.threads, settings.keep_models)
    result = run(Path(args.ct), options, engines, settings.limits, _Progress())
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files(result):
        write_whole(out / name, data)
    print(table(json.loads((out / REPORT).read_bytes())))
    print(f"Written to {out}/")
    return 0


def serve(args: argparse.Namespace) -> int:
    """Run the service at ``args.host`` and ``args.port`` until it is stopped."""
    from serving.process import serve_command, serve_environment

    command = serve_command(args.host, args.port)
    os.execvpe(command[0], command, serve_environment())


def models(_: argparse.Namespace) -> int:
    """List the models of the store, one version a line."""
    for line in model_lines(default_store()):
        print(line)
    return 0


def demo(args: argparse.Namespace) -> int:
    """Send the CT ``args.ct`` through a real service over HTTP; results go to ``args.out``.

    The service is stopped whatever happens.
    """
    from serving.demo import run_demo

    return run_demo(Path(args.ct), Path(args.out))


def model_lines(store: Store) -> list[str]:
    """One line a version: reference, aliases, structures, licence."""
    lines = []
    for name in store.names():
        aliases = store.aliases(name)
        for version in store.versions(name):
            manifest = store.resolve(f"{name}@{version}").manifest
            here = ",".join(a for a, v in aliases.items() if v == version) or "-"
            lines.append(
                f"{name}@{version}  {here}  {manifest.architecture}  "
                f"{','.join(manifest.outputs)}  {manifest.licence}"
            )
    return lines or ["The store is empty; publish a model with `islet export`."]


class _Progress:
    """A line on standard error that says how far the work is, on a terminal only."""

    def __call__(self, step: str, part: float) -> None:
        if sys.stderr.isatty():
            end = "\n" if (step, part) == ("report", 1.0) else ""
            print(f"\r{step:<12}{part:>5.0%}", end=end, file=sys.stderr, flush=True)
