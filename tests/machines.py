"""State machines over real files: how long they run, and what else happens between two steps."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, Phase, settings

# What changes files, or begins to.
STEPS = frozenset(
    {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "os.link"}
)


def budget(examples: int, steps: int, shrink: bool = True) -> settings:
    """How long a machine runs.

    Args:
        examples, steps: in ``make test``, the same in every run; with ``ISLET_EXAMPLES=N`` in the
            environment N examples of three times as many steps are drawn anew.
        shrink: look for a shorter example once one fails.
    """
    asked = os.environ.get("ISLET_EXAMPLES")
    phases = [Phase.generate, *([Phase.shrink] if shrink else [])]
    return settings(
        max_examples=int(asked or examples),
        stateful_step_count=3 * steps if asked else steps,
        derandomize=not asked,
        phases=phases,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def before_every_step(call: Callable[[], object]) -> Iterator[None]:
    """Call something before every step that this thread takes on files while the block lasts.

    What it sees is what another process could see there and then.

    Raises:
        Exception: the first that a call raised, when the block has ended.
    """
    errors: list[Exception] = []
    _Hook.make()
    _Hook.call = call, threading.get_ident(), errors
    try:
        yield
    finally:
        _Hook.call = None
    for error in errors:
        raise error


class _Hook:
    """The one audit hook of this process; none can be taken off again, so it idles."""

    made = False
    call: tuple[Callable[[], object], int, list[Exception]] | None = None

    @classmethod
    def make(cls) -> None:
        if not cls.made:
            sys.addaudithook(cls._heard)
            cls.made = True

    @classmethod
    def _heard(cls, event: str, _args: object) -> None:
        found = cls.call
        if found is None or event not in STEPS or threading.get_ident() != found[1]:
            return
        # What is called takes steps of its own.
        cls.call = None
        try:
            found[0]()
        except Exception as error:  # noqa: BLE001 - told when the block has ended
            found[2].append(error)
        finally:
            cls.call = found
