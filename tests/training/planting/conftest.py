"""The small library, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.planting.scene import write_shapes
from training.planting import Shapes


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the shapes are."""
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def shapes(folder: Path) -> Shapes:
    """Its part for training."""
    return Shapes.open(folder)
