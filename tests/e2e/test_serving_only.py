"""A second, real environment with the serving extra alone: what a CPU-only site installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
FORBIDDEN = {"torch", "monai", "nvflare", "training", "scipy"}

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment into which the checkout was installed, not linked."""
    home = tmp_path_factory.mktemp("serving-only")
    ignore = shutil.ignore_patterns(".*", "runs", "out", "build", "*.egg-info", "__pycache__")
    shutil.copytree(CHECKOUT, home / "source", ignore=ignore)
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    found = home / "venv" / "bin" / "python"
    install = [found, "-m", "pip", "install", "--quiet", "--constraint", "constraints.txt"]
    subprocess.run([*install, ".[serving]"], cwd=home / "source", check=True)
    return found


def _run(python: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, *arguments],
        cwd=python.parents[2],
        env=environment | {"BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_service_loads_no_torch(python: Path) -> None:
    code = "import sys, serving.service; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(_run(python, "-c", code).split())
    assert "onnxruntime" in loaded
    assert not loaded & FORBIDDEN


def test_no_torch_is_installed(python: Path) -> None:
    lines = _run(python, "-m", "pip", "list", "--format=freeze").lower().splitlines()
    installed = {line.split("==")[0] for line in lines}
    assert "bentoml" in installed
    assert not installed & {"torch", "monai", "nvflare", "scipy"}


def test_the_released_model_comes_with_the_package(python: Path) -> None:
    assert "starter@8" in _run(python, "-m", "islet", "models")


def test_a_phantom_needs_no_torch(python: Path) -> None:
    code = (
        "import sys; from training.phantoms import make_phantom; "
        "make_phantom(0, shape=(16, 32, 32)); print('torch' in sys.modules)"
    )
    assert _run(python, "-c", code).strip() == "False"
