"""One CT through a real service over HTTP, on this machine's loopback."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

from imaging.errors import EmptyInput, IsletError
from serving.client import Client
from serving.process import free_port, running, serve_command, serve_environment
from serving.report import table

_HOST = "127.0.0.1"
# What an operator has set for others: the demo meets nobody's jobs, and asks itself for no token.
_OTHERS = ("ISLET_TOKENS", "ISLET_OIDC", "ISLET_AUDIT", "ISLET_DATABASE", "ISLET_PACS")


def run_demo(ct: Path, out: Path) -> int:
    """Start the service, send it a CT, write what comes back, stop the service.

    Args:
        ct: a file, or a folder of DICOM files.
        out: folder for the masks, the report, ``preview.png`` and the service's log.

    Returns:
        0 when masks were written, 1 when the service refused the CT.

    Raises:
        EmptyInput: there is no CT.
        ServiceFailed: the service does not start.
    """
    if not ct.exists():
        raise EmptyInput(f"There is nothing at {ct}; give a CT's file or folder.")
    out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://{_HOST}:{port}"
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(tempfile.TemporaryDirectory(prefix="islet-demo-"))
        log = stack.enter_context((out / "service.log").open("wb"))
        print(f"Starting the service at {url} ...")
        started = time.perf_counter()
        own = {name: value for name, value in os.environ.items() if name not in _OTHERS}
        environment = serve_environment(own | {"ISLET_SPOOL": spool})
        stack.enter_context(running(serve_command(_HOST, port), environment, url, log))
        print(f"Ready after {time.perf_counter() - started:.1f} s. Sending {ct} ...")
        client = stack.enter_context(Client(url))
        started = time.perf_counter()
        try:
            result = client.segment(ct, out)
        except IsletError as error:
            print(f"The service refused the CT ({error.code}): {error.message}")
            return 1
        seconds = time.perf_counter() - started
    print(table(result.report))
    print(f"{seconds:.2f} s from upload to masks. Written to {out}/:")
    print("  " + "  ".join(sorted(p.name for p in out.iterdir())))
    return 0
