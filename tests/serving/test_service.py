"""The service's module, in a process of its own: it changes what the server takes by default."""

from __future__ import annotations

import subprocess
import sys


def test_no_clock_keeps_what_a_request_held() -> None:
    """BentoML's own is what it would use without us, for every request."""
    script = """
from types import SimpleNamespace
from bentoml._internal.server.base_app import BaseAppFactory
factory = SimpleNamespace(timeout=60, max_concurrency=None)
for _ in range(2):
    print([m.cls.__name__ for m in BaseAppFactory.middlewares.fget(factory)])
    import serving.service
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert ended.stdout.split() == [b"['TimeoutMiddleware']", b"['Unclocked']"]
