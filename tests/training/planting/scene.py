"""A small library of shapes and a patient to plant them in, whose right answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.geometry import Geometry
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from training.cases import Loaded

STEP_MM = 2.0
FAT_HU, KIDNEY_HU, PANCREAS_HU, MUSCLE_HU = -100, 170, 100, 55


def grid(shape: tuple[int, ...], spacing: tuple[float, float, float] = (STEP_MM,) * 3) -> Geometry:
    """Axes in (S, P, L) order."""
    return Geometry(
        (shape[0], shape[1], shape[2]), spacing, (-30.0, 20.0, 400.0), np.eye(3)[:, ::-1].copy()
    )


def ball(
    shape: tuple[int, ...], centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """An ellipsoid in voxels."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    parts = (((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True))
    return np.asarray(sum(parts) <= 1)


def kidneys(exophytic: bool = False) -> NDArray[np.uint8]:
    """KiTS values: kidneys at both sides; a tumor high in the left one, a cyst low in the right."""
    labels = np.zeros((50, 40, 90), np.uint8)
    for x in (20, 68):
        labels[ball(labels.shape, (25, 20, x), (20, 10, 11))] = 1
    labels[ball(labels.shape, (36, 20, 81 if exophytic else 70), (6, 6, 6))] = 2
    labels[ball(labels.shape, (12, 20, 18), (4, 4, 4))] = 3
    return labels


def pancreas(x: int) -> NDArray[np.uint8]:
    """PANORAMA values: a bar from right to left with a cancer at ``x``."""
    labels = np.zeros((20, 24, 80), np.uint8)
    labels[5:15, 7:17, 4:76] = 4
    labels[ball(labels.shape, (10, 12, x), (5, 5, 5))] = 1
    return labels


def write_shapes(folder: Path, count: int = 12) -> Path:
    """So many cases of each source, one with an organ too small to speak of."""
    for i in range(count):
        _write(kidneys(i % 2 == 1), folder / "kits23" / f"case_{i:05d}.nii.gz")
        _write(pancreas(16), folder / "panorama" / f"{100000 + i}_00001.nii.gz")
    crumb = np.zeros((12, 12, 12), np.uint8)
    crumb[2:6, 2:6, 2:6], crumb[6:10, 2:8, 2:8] = 1, 2
    _write(crumb, folder / "kits23" / "case_99999.nii.gz")
    return folder


def patient(spacing: tuple[float, float, float] = (STEP_MM,) * 3, seed: int = 0) -> Loaded:
    """Kidneys and a pancreas in fat, muscle behind, spleen beside the left kidney."""
    fine = (60, 80, 130)
    shape = tuple(round(n * STEP_MM / s) for n, s in zip(fine, spacing, strict=True))
    scale = [STEP_MM / s for s in spacing]

    def at(*voxel: float) -> tuple[float, float, float]:
        z, y, x = (v * k for v, k in zip(voxel, scale, strict=True))
        return z, y, x

    hu = np.full(shape, FAT_HU, np.float32)
    labels = np.zeros(shape, np.uint8)
    back = tuple(slice(None) if n else slice(int(66 * scale[1]), None) for n in (1, 0, 1))
    hu[back] = MUSCLE_HU
    for x in (30, 100):
        organ = ball(shape, at(30, 45, x), at(24, 12, 14))
        hu[organ], labels[organ] = KIDNEY_HU, BY_NAME["kidney"].value
    gland = ball(shape, at(30, 15, 65), at(8, 8, 45))
    hu[gland], labels[gland] = PANCREAS_HU, BY_NAME["pancreas"].value
    spleen = ball(shape, at(50, 45, 125), at(9, 10, 8)) & (labels == 0)
    hu[spleen], labels[spleen] = 120, BY_NAME["spleen"].value
    hu += np.random.default_rng(seed).normal(0, 10, shape).astype(np.float32)
    where = grid(shape, spacing)
    annotated = ("pancreas", "kidney", "spleen")
    voxels = np.rint(hu).astype(np.int16)
    return Loaded("patient", Volume(voxels, where), Volume(labels, where), annotated)


def _write(labels: NDArray[np.uint8], path: Path) -> None:
    write_nifti(Volume(labels, grid(labels.shape)), path)
