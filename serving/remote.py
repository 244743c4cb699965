"""The command line as a client of a service: ``islet segment --server`` and ``islet jobs``."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from pathlib import Path
from typing import Any

from imaging.errors import BadParameter
from serving.client import Client, RemoteJob
from serving.commands import Progress
from serving.report import table

TOKEN_VARIABLE = "ISLET_TOKEN"


def client_of(args: argparse.Namespace) -> Client:
    """A client of ``args.server``.

    Args:
        args: ``server`` (URL), ``token_file`` (else the environment's ``ISLET_TOKEN``; a token on
            the command line would be seen by everybody on the machine), ``ca``.

    Raises:
        BadParameter: no URL, or a file that cannot be read.
    """
    if not args.server:
        raise BadParameter("Name the service with --server, such as https://islet.example:3000.")
    return Client(args.server, _token(args.token_file), args.ca)


def segment(args: argparse.Namespace) -> int:
    """Have a service segment a CT into a folder; Ctrl-C cancels the job there too.

    Args:
        args: as ``serving.commands.segment`` takes them.
    """
    with client_of(args) as client:
        result = client.segment(
            Path(args.ct),
            Path(args.out),
            progress=Progress(),
            model=args.model,
            structures=_words(args.structures),
            outputs=_words(args.outputs),
            series=args.series,
            device=args.device,
            doubtful=args.doubtful,
        )
    print(table(result.report))
    print(f"Written to {result.folder}/")
    return 0


def jobs(args: argparse.Namespace) -> int:
    """List the jobs of a service, or show, wait for, fetch or cancel one.

    Args:
        args: ``action``, and ``job`` (id) for all but ``list``; ``out`` for ``fetch``.
    """
    with client_of(args) as client:
        if args.action == "list":
            for found in client.jobs(args.state):
                print(_line(found))
            return 0
        job = client.job(args.job)
        return _ACTIONS[args.action](job, args)


def _show(job: RemoteJob, _: argparse.Namespace) -> int:
    found = job.status()
    print(_line(found))
    for file in found["files"]:
        print(f"  {file['name']:<28}{file['bytes']:>12}")
    if found["error"]:
        print(f"  {found['error']['code']}: {found['error']['message']}")
    return 0


def _fetch(job: RemoteJob, args: argparse.Namespace) -> int:
    job.wait(Progress())
    result = job.result(args.out or Path(job.id))
    print(table(result.report))
    print(f"Written to {result.folder}/")
    return 0


def _cancel(job: RemoteJob, _: argparse.Namespace) -> int:
    job.cancel()
    return _show(job, _)


_ACTIONS = {"show": _show, "fetch": _fetch, "cancel": _cancel}


def _line(found: dict[str, Any]) -> str:
    """A job in a line: id, state, how far, when, model, error."""
    where = found["state"]
    if where == "running" and found["step"]:
        where = f"{found['step']} {found['part']:.0%}"
    elif where == "queued" and found["place"]:
        where = f"queued ({found['place']})"
    error = found["error"]["code"] if found["error"] else ""
    words = (found["id"], f"{where:<16}", found["created"][:19], found["model"] or "-", error)
    return "  ".join(words).rstrip()


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _token(path: Path | None) -> str | None:
    """The token in a file, else in the environment."""
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            print(f"islet: others may read {path}; chmod 600 it", file=sys.stderr)
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameter(
            f"{path} is no file with a token ({type(error).__name__}).", parameter="token-file"
        ) from error
