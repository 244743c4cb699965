"""Jobs over both databases, a store of tiny models, and kinds of work that misbehave."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.store import Store
from serving.jobs.jobs import Jobs
from serving.jobs.record import Job
from serving.options import Options
from serving.settings import Settings
from tests.serving.jobs import postgres


@pytest.fixture(scope="session")
def sockets() -> Iterator[Path]:
    """A PostgreSQL server."""
    with postgres.server() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """An empty place for records: ``None`` for files, or the URL of a database."""
    if request.param == "sqlite":
        return None
    return postgres.fresh(request.getfixturevalue("sockets"))


@pytest.fixture
def settings(database: str | None, tmp_path: Path) -> Settings:
    """Of a service with one worker and room for three jobs."""
    return Settings(spool=tmp_path / "spool", database=database, queue=3)


@pytest.fixture
def jobs(settings: Settings) -> Iterator[Jobs]:
    """The door."""
    made = Jobs(settings)
    yield made
    made.close()


@pytest.fixture
def submit(jobs: Jobs, ct: Path) -> Callable[..., Job]:
    """Submits the boxes CT; arguments are those of ``Jobs.submit`` by name."""

    def call(**given: object) -> Job:
        asked = {"kind": "segment", "request": Options().to_json(), "owner": "anna"} | given
        with jobs.staged() as folder:
            shutil.copy(ct, folder / "000000")
            return jobs.submit(folder=folder, **asked)  # type: ignore[arg-type]

    return call


@pytest.fixture
def published(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, as worker processes find it."""
    monkeypatch.setenv("ISLET_STORE", str(store.root))
    return store


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    """Wait for something that must come about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)
