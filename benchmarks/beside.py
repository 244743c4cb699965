"""A process that measures when it is asked: a line of JSON goes there, one comes back.

What a benchmark compares with may need other libraries than this process has, or more memory than
is left. It runs beside, by any Python, and does nothing until it is its turn. Both ends are here
and need the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
# Names the descriptor that answers go to: libraries print what they like.
_ANSWERS = "BENCHMARK_ANSWERS"
_ENDS_WITHIN_S = 10.0
_TAIL = 300


class ProcessLost(Exception):
    """The process ended before it answered."""


class Beside:
    """The asking end; use it as a context, at whose end the process is stopped.

    Args:
        command: what calls :func:`answer`; started in the checkout, so ``-m benchmarks.NAME`` runs.
        log: gets all that it prints.

    Attributes:
        pid: of the process.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        reading, writing = os.pipe()
        with log.open("wb") as printed:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
                env={**os.environ, _ANSWERS: str(writing)},
                pass_fds=[writing],
                text=True,
            )
        os.close(writing)
        self._answers = os.fdopen(reading)
        self.pid = self._process.pid

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the process answers.

        Args:
            request: JSON-serialisable; paths in it are absolute.

        Raises:
            ProcessLost: it ended; the message has the end of what it printed.
        """
        assert self._process.stdin is not None
        # One that has ended takes no request, and has no answer either.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._answers.readline()
        if not line:
            raise ProcessLost(self._end())
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._answers.close()

    def _end(self) -> str:
        code = self._process.wait(_ENDS_WITHIN_S)
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed by signal {-code}, as one is where memory runs out"
        tail = self._log.read_text(encoding="utf-8", errors="replace").strip()[-_TAIL:]
        return f"The process {how}: {tail or 'it printed nothing'}"


def answer(work: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """The answering end: does every request in turn until nobody asks any more.

    Args:
        work: gives a request's answer, JSON-serialisable.
    """
    # Where memory runs out the kernel ends this process, not what else the machine does.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with os.fdopen(int(os.environ[_ANSWERS]), "w") as out:
        for line in sys.stdin:
            out.write(json.dumps(dict(work(json.loads(line)))) + "\n")
            out.flush()
