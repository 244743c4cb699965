"""The demo: one CT through a real service, and nothing left running."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.store import Store
from serving import commands
from serving.client import Client
from tests.imaging.dicom_files import write_series
from tests.serving.tiny_model import publish

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    publish(Store(tmp_path / "store", behind=()), tmp_path)
    monkeypatch.setenv("ISLET_STORE", str(tmp_path / "store"))
    stored = np.full((8, 40, 48), 1024 - 100, np.uint16)
    stored[2:6, 10:20, 10:30] = 1024 + 150
    write_series(tmp_path / "ct", stored)
    return argparse.Namespace(ct=tmp_path / "ct", out=tmp_path / "out")


def test_a_dicom_folder_goes_through(
    args: argparse.Namespace, capsys: pytest.CaptureFixture
) -> None:
    assert commands.demo(args) == 0
    made = {p.name for p in args.out.iterdir()}
    assert {"kidney.nii.gz", "labels.nii.gz", "report.json", "preview.png"} <= made
    with Image.open(args.out / "preview.png") as picture:
        assert min(picture.size) > 50
    # 4 x 10 x 20 voxels of 2.5 x 0.9 x 0.7 mm.
    assert f"kidney{800 * 2.5 * 0.9 * 0.7 / 1000:>26.1f}" in capsys.readouterr().out
    assert b"cleanup finalized" in (args.out / "service.log").read_bytes()


def test_a_refusal_is_told_and_the_service_stopped(
    args: argparse.Namespace, capsys: pytest.CaptureFixture
) -> None:
    (args.ct / "0004.dcm").unlink()
    assert commands.demo(args) == 1
    assert "refused the CT (missing_slices)" in capsys.readouterr().out


def test_ctrl_c_leaves_no_process(
    args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        commands.demo(args)
    assert b"cleanup finalized" in (args.out / "service.log").read_bytes()
