"""One worker for all tests of the interface, and a service that has none."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imaging.limits import Limits
from imaging.writers.nifti import write_nifti
from models.store import Store
from serving.jobs.jobs import Jobs
from serving.settings import Settings
from serving.workers.crew import Crew
from tests.serving.api.house import LIMIT, Service
from tests.serving.tiny_model import boxes_ct, publish


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's folder with ``starter`` (3D) and ``flat`` (2D), to be copied."""
    folder = tmp_path_factory.mktemp("models")
    made = Store(folder / "store", behind=())
    publish(made, folder)
    publish(made, folder, "flat", dims=2)
    return made.root


@pytest.fixture
def store(shelf: Path, tmp_path: Path) -> Store:
    """A store of the test's own."""
    return Store(Path(shutil.copytree(shelf, tmp_path / "store")), behind=())


@pytest.fixture(scope="session")
def manned(
    shelf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, Store, Jobs]]:
    """A spool with a worker process."""
    folder = tmp_path_factory.mktemp("manned")
    store = Store(Path(shutil.copytree(shelf, folder / "store")), behind=())
    settings = Settings(spool=folder / "spool", threads=1, limits=Limits(max_bytes=LIMIT))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ISLET_STORE", str(store.root))
        jobs, crew = Jobs(settings), Crew(settings)
        crew.start()
        deadline = time.monotonic() + 60
        while not jobs.ready():
            assert time.monotonic() < deadline, "the worker did not get ready"
            time.sleep(0.05)
        yield settings, store, jobs
        crew.stop()
        jobs.close()


@pytest.fixture
def service(manned: tuple[Settings, Store, Jobs]) -> Iterator[Service]:
    """The interface over jobs that are done; leaves nothing that was received by halves."""
    made = Service(*manned)
    yield made
    assert staged(made.settings) == []


@pytest.fixture
def idle(store: Store, tmp_path: Path) -> Iterator[Service]:
    """The interface over jobs that nobody does; four may wait."""
    settings = Settings(spool=tmp_path / "spool", queue=4, limits=Limits(max_bytes=LIMIT))
    jobs = Jobs(settings)
    made = Service(settings, store, jobs)
    yield made
    assert staged(settings) == []
    jobs.close()


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """The boxes CT as a file."""
    path = tmp_path / "ct.nii.gz"
    write_nifti(boxes_ct()[0], path)
    return path


def staged(settings: Settings) -> list[Path]:
    """What uploads left behind."""
    return list((settings.spool / "staging").glob("*"))
