"""What ``islet segment``, ``serve`` and ``demo`` do.

Functions take parsed arguments and return an exit code; errors of the tree go up to the front
door, which prints them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path


def segment(args: argparse.Namespace) -> int:
    """Segment a CT into a folder: the files of the result, and its numbers on the screen.

    Args:
        args: ``ct`` (file, folder or archive), ``out`` (folder), ``model``, ``structures`` and
            ``outputs`` (words with commas), ``series``, ``device``, ``doubtful``; ``None`` takes
            the default.
    """
    # onnxruntime and the readers load here, not when the command line is parsed.
    from imaging.files import write_whole
    from models.store import default_store
    from serving.engines import Engines
    from serving.options import Options, split_words
    from serving.outputs import REPORT
    from serving.report import table
    from serving.segment import files
    from serving.segment import segment as run
    from serving.settings import Settings

    settings = Settings.from_environment()
    options = Options(
        model=args.model or settings.model,
        masks=split_words([args.structures or ""]),
        series=args.series,
        device=args.device or settings.device,
        outputs=split_words([args.outputs or ""]) or Options.outputs,
        doubtful=args.doubtful or Options.doubtful,
    )
    engines = Engines(
        default_store(),
        settings.threads,
        settings.model_memory_mb,
        settings.model_idle_s,
        runtime=settings.runtime,
    )
    result = run(Path(args.ct), options, engines, settings.limits, Progress())
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files(result):
        write_whole(out / name, data)
    print(table(json.loads((out / REPORT).read_bytes())))
    print(f"Written to {out}/")
    return 0


def serve(args: argparse.Namespace) -> int:
    """Run the service at ``args.host`` and ``args.port`` until it is stopped.

    Args:
        args: ``host``, ``port``, and the PEM files ``tls_cert``, ``tls_key`` and ``tls_ca``.

    Raises:
        Forbidden: others could reach it, and nothing asks them for a token.
    """
    from serving.guard.rules import check_exposure
    from serving.process import serve_command, serve_environment
    from serving.settings import Settings

    check_exposure(args.host, Settings.from_environment())
    command = serve_command(args.host, args.port, args.tls_cert, args.tls_key, args.tls_ca)
    os.execvpe(command[0], command, serve_environment())


def demo(args: argparse.Namespace) -> int:
    """Send the CT ``args.ct`` through a real service over HTTP; results go to ``args.out``.

    The service is stopped whatever happens.
    """
    from serving.demo import run_demo

    return run_demo(Path(args.ct), Path(args.out))


class Progress:
    """A line on standard error that says how far the work is, on a terminal only."""

    def __call__(self, step: str, part: float) -> None:
        if sys.stderr.isatty():
            end = "\n" if (step, part) == ("report", 1.0) else ""
            print(f"\r{step:<12}{part:>5.0%}", end=end, file=sys.stderr, flush=True)
