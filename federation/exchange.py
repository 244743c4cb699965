"""What carries requests to sites and replies back; the policy of a job is written against it.

Two things are an exchange: NVIDIA FLARE's controller between real machines, and a few worker
processes of one machine in a simulation. Both carry the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Reply:
    """A site's answer.

    Attributes:
        site: its name.
        visit: the one that was asked, see :meth:`Exchange.present`.
        body: what ``federation.site.Site.handle`` gave; ``None`` where its process failed.
    """

    site: str
    visit: str
    body: bytes | None


class Exchange(Protocol):
    """Requests to sites, one at a time each, and their replies in the order of arrival."""

    def present(self) -> Mapping[str, str]:
        """The sites that can be asked now, each with its visit.

        A visit is an opaque word that changes whenever the site comes back as another process: what
        that one was asked before, it does not know.
        """
        ...

    def ask(self, site: str, request: bytes) -> None:
        """Send a request to a site that is present; what it was asked before is withdrawn."""
        ...

    def receive(self, seconds: float) -> Reply | None:
        """The next reply, waited for so long; ``None`` where none came."""
        ...

    def withdraw(self, site: str) -> None:
        """Expect no reply of a site any more; one that comes all the same is dropped."""
        ...

    def stopped(self) -> bool:
        """Whether the job was told to stop."""
        ...
