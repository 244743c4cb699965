"""Series that come in image by image: gathered in the spool, handed on when they are whole."""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from imaging.dicom_headers import head_of
from imaging.errors import IsletError, ServiceBusy
from imaging.limits import Limits
from serving.jobs.jobs import Jobs
from serving.jobs.record import Job
from serving.options import Options
from serving.pacs.config import Listener, Pacs
from serving.pacs.rules import Rules, Series
from serving.settings import Settings

logger = logging.getLogger("islet.pacs")


@dataclass(eq=False)
class _Arriving:
    """A series that is not whole yet.

    Attributes:
        caller: title of who sends it.
        series: SeriesInstanceUID.
        folder: staged in the spool.
        stack: gives the folder up.
        last: when the last image came, by the monotonic clock.
        sizes: bytes of each file, by its name.
        bytes: of all of them.
        sending: associations that sent of it and are still open.
        broken: the last association that sent of it broke off.
        refused: an image was not taken, so the series cannot be whole.
    """

    caller: str
    series: str
    folder: Path
    stack: ExitStack
    last: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    sending: set[int] = field(default_factory=set)
    broken: bool = False
    refused: bool = False

    def keep(self, file: Path, name: str, limits: Limits) -> bool:
        """Move a file in, if there is room; one of the same name is replaced."""
        size = file.stat().st_size
        total = self.bytes + size - self.sizes.get(name, 0)
        files = len(self.sizes.keys() | {name})
        self.refused |= files > limits.max_files or total > limits.max_unpacked_bytes
        if not self.refused:
            shutil.move(file, self.folder / name)
            self.sizes[name], self.bytes = size, total
        return not self.refused


class Reception:
    """Gathers images by caller and series; safe to use from many threads.

    Args:
        settings: limits and the model.
        pacs: where results go.
        listener: what to ask for, and how long a series must be quiet.
        rules: a series must pass them.
        jobs: takes whole series.
        aet: title that Islet calls itself.
    """

    def __init__(
        self,
        settings: Settings,
        pacs: Pacs,
        listener: Listener,
        rules: Rules,
        jobs: Jobs,
        aet: str,
    ) -> None:
        self._limits: Limits = settings.limits
        self._pacs = pacs
        self._listener = listener
        self._rules = rules
        self._jobs = jobs
        self._aet = aet
        self._options = Options(
            model=listener.model or settings.model,
            masks=listener.structures,
            device=settings.device,
            outputs=listener.outputs,
        )
        self._lock = threading.Lock()
        self._arriving: dict[tuple[str, str], _Arriving] = {}
        # Only the thread that settles touches these.
        self._whole: list[_Arriving] = []

    def take(self, caller: str, association: int, series: str, instance: str, file: Path) -> bool:
        """Move one received image into its series; the same instance again replaces it.

        Returns:
            Whether there was room: a series stays within the limits on files and bytes.
        """
        # The sender's words are no names of files.
        name = hashlib.sha256(instance.encode()).hexdigest()[:32] + ".dcm"
        with self._lock:
            found = self._series(caller, series)
            found.last, found.broken = time.monotonic(), False
            found.sending.add(association)
            try:
                return found.keep(file, name, self._limits)
            except OSError:
                found.refused = True
                raise

    def closed(self, association: int, whole: bool) -> None:
        """An association ended; ``whole`` when its sender said so itself."""
        with self._lock:
            for found in self._arriving.values():
                if association in found.sending:
                    found.sending.remove(association)
                    found.broken = not whole

    def settle(self, now: float | None = None) -> list[Job]:
        """Submit every series that has been quiet long enough.

        Args:
            now: by the monotonic clock; ``None`` is now.

        Returns:
            The jobs.
        """
        now = time.monotonic() if now is None else now
        self._collect(lambda found: now - found.last >= self._listener.quiet_s)
        return self._submit()

    def close(self) -> list[Job]:
        """Submit what was sent whole and forget the rest."""
        self._collect(lambda _: True)
        jobs = self._submit()
        for found in (*self._whole, *self._arriving.values()):
            found.stack.close()
        return jobs

    def _collect(self, due: Callable[[_Arriving], bool]) -> None:
        """Take the series that are due, and that nobody sends any more, out of those arriving."""
        with self._lock:
            for key, found in list(self._arriving.items()):
                if not found.sending and due(found):
                    self._whole.append(self._arriving.pop(key))

    def _submit(self) -> list[Job]:
        made: list[Job] = []
        while self._whole:
            try:
                job = self._hand_on(self._whole[0])
            except ServiceBusy as error:
                # It stays where it is until there is room.
                logger.info("%s", error.message)
                return made
            except IsletError as error:
                logger.error("a series was not handed on: %s: %s", error.code, error.message)
                job = None
            self._whole.pop(0).stack.close()
            made += [job] if job else []
        return made

    def _hand_on(self, found: _Arriving) -> Job | None:
        """The job of a whole series, or ``None`` when it is not to be segmented."""
        if found.broken or found.refused:
            logger.warning("series %s came in part, %d images", found.series, len(found.sizes))
            return None
        rule = self._refusal(found)
        if rule is not None:
            logger.info("series %s does not pass the rule %s", found.series, rule)
            return None
        self._jobs.room()
        peer = self._pacs.destination(found.caller)
        request = {
            "model": self._options.model,
            "peer": peer.name,
            "aet": self._aet,
            "series": found.series,
            "options": self._options.to_json(),
        }
        job = self._jobs.submit("dimse", request, f"dimse:{found.caller}", found.folder)
        logger.info("series %s with %d images is job %s", found.series, len(found.sizes), job.id)
        return job

    def _refusal(self, found: _Arriving) -> str | None:
        names = sorted(found.sizes)
        try:
            header = head_of(found.folder / names[len(names) // 2])
            return self._rules.refusal(Series.of(header, len(names)))
        except (IsletError, ValueError, EOFError, OSError):
            return "readable"

    def _series(self, caller: str, series: str) -> _Arriving:
        key = (caller, series)
        if key not in self._arriving:
            stack = ExitStack()
            folder = stack.enter_context(self._jobs.staged())
            self._arriving[key] = _Arriving(caller, series, folder, stack)
        return self._arriving[key]
