"""What ``islet dimse`` does."""

from __future__ import annotations

import argparse
import logging
import signal
import threading

from imaging.errors import BadParameter
from serving.pacs.config import check_aet, load
from serving.settings import Settings


def dimse(args: argparse.Namespace) -> int:
    """Take CT series in by C-STORE until stopped.

    Args:
        args: ``aet``, ``host`` and ``port`` to listen under; who may send, and where results go,
            is under ``[listener]`` in the file that ``ISLET_PACS`` names.

    Raises:
        BadParameter: there is no such section, or the title is none.
        ServiceFailed: the port is taken.
    """
    from serving.pacs.listener import listening

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = Settings.from_environment()
    check_aet(args.aet)
    pacs = load(settings.pacs)
    if pacs.listener is None:
        raise BadParameter(
            "Nothing says who may send: add [listener] with callers to the file that ISLET_PACS "
            "names; docs/pacs.md has an example."
        )
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with listening(settings, pacs, pacs.listener, args.aet, args.host, args.port) as port:
        print(f"{args.aet} listens at {args.host}:{port}.", flush=True)
        stopped.wait()
    return 0
