"""A store of tiny models and a CT whose labels are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imaging.writers.nifti import write_nifti
from models.store import Store
from tests.serving.live import Live, live_service
from tests.serving.tiny_model import boxes_ct, publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with ``starter`` (3D) and ``flat`` (2D)."""
    made = Store(tmp_path / "store", behind=())
    publish(made, tmp_path)
    publish(made, tmp_path, "flat", dims=2)
    return made


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """The boxes CT as a file."""
    path = tmp_path / "ct.nii.gz"
    write_nifti(boxes_ct()[0], path)
    return path


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The interfaces over HTTP, with one worker for all tests that ask."""
    with live_service(tmp_path_factory.mktemp("live")) as service:
        yield service
