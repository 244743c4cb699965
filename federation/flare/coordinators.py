"""What a coordinator does from its own machine, with the certificate of its kit."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.api_spec import (
    AuthenticationError,
    AuthorizationError,
    InternalError,
    InvalidJobDefinition,
    JobNotDone,
    JobNotFound,
    JobNotRunning,
    NoConnection,
    SessionClosed,
    TargetType,
)
from nvflare.fuel.flare_api.flare_api import Session as EngineSession
from nvflare.fuel.flare_api.flare_api import new_secure_session

from federation.flare.home import STATE
from federation.flare.package import TASK, write_package
from federation.job import Job
from federation.progress import ROUNDS, History
from imaging.errors import BadParameter, FederationError

_CONNECT_S = 15.0
_ENDED = "FINISHED"
_POLL_S = 2.0
_PATIENCE_S = 600.0
_ENGINE_ERRORS = (
    AuthenticationError,
    InternalError,
    InvalidJobDefinition,
    JobNotDone,
    JobNotFound,
    JobNotRunning,
    NoConnection,
    SessionClosed,
    RuntimeError,
)


@dataclass(frozen=True)
class Standing:
    """How a job stands at the server.

    Attributes:
        job_id, name: of the job.
        state: ``submitted``, ``running``, ``completed`` or what else ended it.
        ended: whether that is the end.
        history: its rounds so far; ``None`` before the first and when it has ended.
    """

    job_id: str
    name: str
    state: str
    ended: bool
    history: History | None = None


class Session:
    """A session of a coordinator with the server; use :func:`coordinator`."""

    def __init__(self, session: EngineSession) -> None:
        self._session = session

    def submit(self, job: Job) -> str:
        """Hand a job in; its number.

        Raises:
            FederationError: the role may not, or the server refuses it.
        """
        with tempfile.TemporaryDirectory() as folder, _translated():
            return str(self._session.submit_job(str(write_package(job, Path(folder)))))

    def jobs(self) -> list[Standing]:
        """All jobs of the server, the newest first, without their rounds."""
        with _translated():
            listed: list[dict[str, Any]] = self._session.list_jobs()
        return [_standing(raw) for raw in listed]

    def standing(self, job_id: str) -> Standing:
        """How one job stands.

        Raises:
            FederationError: there is none.
        """
        with _translated():
            standing = _standing(self._session.get_job_meta(job_id))
        if standing.state != "running":
            return standing
        return Standing(job_id, standing.name, standing.state, False, self._history(job_id))

    def logs(self, job_id: str) -> str:
        """The server's log of a job; a site's stays at the site."""
        with _translated():
            return str(self._session.get_job_logs(job_id)["logs"].get("server", ""))

    def abort(self, job_id: str) -> None:
        """Stop a job, or cancel one that has not begun."""
        with _translated():
            self._session.abort_job(job_id)

    def fetch(self, job_id: str, out: Path) -> list[Path]:
        """Copy the results of an ended job to a folder.

        Returns:
            The files.

        Raises:
            FederationError: the job runs, or left no results.
        """
        with tempfile.TemporaryDirectory() as folder:
            with _translated():
                got = Path(self._session.download_job_result(job_id, folder))
            results = [p for p in got.rglob(f"{STATE}/*") if p.is_file()]
            if not results:
                raise FederationError(
                    f"Job {job_id} left no results; `islet federate logs {job_id}` says why."
                )
            out.mkdir(parents=True, exist_ok=True)
            return [Path(shutil.copy(result, out)) for result in results]

    def _history(self, job_id: str) -> History | None:
        """The rounds of a running job, as its process tells them."""
        try:
            stats = self._session.show_stats(job_id, TargetType.SERVER)
        except _ENGINE_ERRORS:
            # It ended meanwhile, or has just begun.
            return None
        told = stats.get("server", {}).get(TASK, {}) if isinstance(stats, dict) else {}
        return History.from_json(told[ROUNDS]) if ROUNDS in told else None


@contextmanager
def coordinator(kit: Path) -> Iterator[Session]:
    """A session with the server of a coordinator's kit.

    Raises:
        BadParameter: no coordinator's kit.
        FederationError: the server is not reached, or does not know the certificate.
    """
    kit = kit.resolve()
    try:
        raw = json.loads((kit / "startup" / "fed_admin.json").read_text())
        name = raw["admin"]["username"]
    except (OSError, ValueError, KeyError) as error:
        raise BadParameter(
            f"{kit} is no coordinator's kit; `islet federate provision` makes them."
        ) from error
    # The engine tells of each retry; what matters comes back as an error.
    logging.getLogger("nvflare").setLevel(logging.CRITICAL)
    with _translated(), redirect_stdout(io.StringIO()):
        session = new_secure_session(name, str(kit), timeout=_CONNECT_S)
    try:
        yield Session(session)
    finally:
        with suppress(*_ENGINE_ERRORS):
            session.close()


def follow(
    kit: Path, job_id: str, say: Callable[[Standing], None], patience_s: float = _PATIENCE_S
) -> Standing:
    """Wait for a job's end, and tell how it stands every other second until then.

    A server that is away comes back; the job goes on there, and so does this.

    Args:
        kit: of the coordinator.
        job_id: of the job.
        say: told each time.
        patience_s: how long the server may be away.

    Raises:
        FederationError: it was away for longer.
    """
    answered = time.monotonic()
    while True:
        try:
            with coordinator(kit) as session:
                while True:
                    standing = session.standing(job_id)
                    answered = time.monotonic()
                    say(standing)
                    if standing.ended:
                        return standing
                    time.sleep(_POLL_S)
        except FederationError:
            if time.monotonic() - answered > patience_s:
                raise
            time.sleep(_POLL_S)


@contextmanager
def _translated() -> Iterator[None]:
    """The engine's errors as ours."""
    try:
        yield
    except AuthorizationError as error:
        raise FederationError(f"This coordinator's role does not allow that ({error}).") from error
    except _ENGINE_ERRORS as error:
        raise FederationError(f"The server refuses or is not reached: {error}.") from error


def _standing(raw: dict[str, Any]) -> Standing:
    status = str(raw.get("status", ""))
    ended = status.startswith(_ENDED)
    state = status.removeprefix(f"{_ENDED}:").replace("_", " ").lower()
    return Standing(str(raw["job_id"]), str(raw.get("job_name") or raw.get("name")), state, ended)
