"""Bodies of boxes on disk, sound in every way that a check of data looks at, and easy to spoil."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imaging.geometry import Geometry
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from training.cases import Case
from training.check import Finding, Report

SHAPE, SPACING = (32, 48, 48), 4.0
# Boxes (S, P, L) in voxels of 0.064 ml, and HU.
ORGANS = {
    "liver": ((8, 26), (8, 28), (2, 20), 100),
    "pancreas": ((10, 16), (14, 20), (22, 34), 80),
    "spleen": ((14, 24), (28, 40), (36, 46), 110),
    "kidney": ((4, 14), (32, 44), (22, 32), 160),
}
VALUES = {BY_NAME[name].value: name for name in ORGANS}


def body_grid(shape: tuple[int, ...] = SHAPE, spacing: float = SPACING) -> Geometry:
    return Geometry(shape, (spacing,) * 3, (-20.0, 10.0, 5.0), np.eye(3)[:, ::-1])


def body(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """HU (int16) and labels (uint8) of a body of boxes with noise of its own."""
    hu = np.random.default_rng(seed).normal(-90, 5, SHAPE)
    hu[:, :2] = -1000
    labels = np.zeros(SHAPE, np.uint8)
    for name, (z, y, x, value) in ORGANS.items():
        box = (slice(*z), slice(*y), slice(*x))
        labels[box] = BY_NAME[name].value
        hu[box] += value + 90
    return hu.astype(np.int16), labels


class Bodies:
    """A data set in the Decathlon's layout whose files can be spoilt."""

    def __init__(self, folder: Path, seeds: range) -> None:
        self.folder = folder
        self.names = [f"body_{seed}" for seed in seeds]
        for part in ("imagesTr", "labelsTr", "imagesTs"):
            (folder / part).mkdir(parents=True)
        for seed in seeds:
            hu, labels = body(seed)
            self.put("imagesTr", seed, hu)
            self.put("labelsTr", seed, labels)
        self.describe({str(value): name for value, name in VALUES.items()})

    def path(self, part: str, seed: int) -> Path:
        return self.folder / part / f"body_{seed}.nii.gz"

    def put(self, part: str, seed: int, array: np.ndarray, grid: Geometry | None = None) -> None:
        write_nifti(Volume(array, grid or body_grid(array.shape)), self.path(part, seed))

    def rescale(self, seed: int, spacing: tuple[float, float, float]) -> None:
        """Store a case with other spacings, mm."""
        grid = dataclasses.replace(body_grid(), spacing=spacing)
        for part, array in zip(("imagesTr", "labelsTr"), body(seed), strict=True):
            self.put(part, seed, array, grid)

    def describe(self, labels: dict[str, str], **more: Any) -> None:
        pairs = [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"}
            for n in self.names
        ]
        meta = {"name": "bodies", "labels": {"0": "background", **labels}, "training": pairs}
        text = json.dumps(meta | more)
        (self.folder / "dataset.json").write_text(text, encoding="utf-8")

    def cases(self) -> list[Case]:
        return [
            Case(
                name,
                self.folder / "imagesTr" / f"{name}.nii.gz",
                self.folder / "labelsTr" / f"{name}.nii.gz",
                VALUES,
                tuple(ORGANS),
            )
            for name in self.names
        ]


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed[20, 20, 20] = value
    return changed


def only(report: Report) -> Finding:
    assert len(report.findings) == 1, str(report)
    return report.findings[0]


def given(monkeypatch: pytest.MonkeyPatch, cases: list[Case]) -> None:
    monkeypatch.setattr("training.check.sets.listed_cases", lambda folder: cases)
