"""What a site is on its own machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from federation.job import check_site
from federation.policy import Policy


@dataclass(frozen=True)
class Home:
    """What a site is on its own machine; nothing of it is ever sent.

    Attributes:
        name: of the site.
        folder: of the job's state and of prepared cases.
        data: folders of data sets.
        store: root of the store that the site serves from.
        policy: what a job may ask of the site.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of the training on a CPU. Rounding depends on it, so that only sites with the same
            number reproduce each other bit for bit.
    """

    name: str
    folder: Path
    data: tuple[Path, ...]
    store: Path
    policy: Policy
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        check_site(self.name)
