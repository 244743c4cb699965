"""Cases and recipes small enough to train in a second, whose right answers are known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imaging.geometry import Geometry
from imaging.volume import Volume
from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from models.manifest import Intensity, Sampling
from training.cases import Loaded
from training.prepared import Prepared, prepare
from training.recipe import Augment, Loss, Optimizer, Recipe

HU = {"pancreas": 90, "kidney": 180, "background": -90}
NAMES = ("pancreas", "kidney")


def grid(shape: tuple[int, int, int], spacing: float = 2.5) -> Geometry:
    """An axial grid."""
    return Geometry(shape, (spacing,) * 3, (-20.0, 10.0, 5.0), np.eye(3)[:, ::-1])


def arrays(
    seed: int = 0, shape: tuple[int, int, int] = (24, 28, 32)
) -> tuple[np.ndarray, np.ndarray]:
    """HU (int16) and labels (uint8) of two blocks in noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    z, y, x = rng.integers(2, 6, 3)
    labels[z : z + 8, y : y + 8, x : x + 8] = BY_NAME["pancreas"].value
    labels[z + 4 : z + 14, y + 10 : y + 18, x + 10 : x + 20] = BY_NAME["kidney"].value
    hu = np.full(shape, HU["background"], np.float64)
    for name in NAMES:
        hu[labels == BY_NAME[name].value] = HU[name]
    return (hu + rng.normal(0, 5, shape)).astype(np.int16), labels


def loaded(seed: int = 0, annotated: tuple[str, ...] = NAMES) -> Loaded:
    """The blocks as a case in memory."""
    hu, labels = arrays(seed)
    where = grid(hu.shape)
    return Loaded(f"blocks-{seed}", Volume(hu, where), Volume(labels, where), annotated)


def cases(recipe: Recipe, count: int = 2, first: int = 0) -> list[Prepared]:
    """Blocks on a recipe's grid."""
    return [prepare(loaded(seed), recipe) for seed in range(first, first + count)]


def volumetric(**changes: Any) -> Recipe:
    """A small U-Net, cosine schedule, partial labels' loss."""
    recipe = Recipe(
        name="tiny",
        architecture="dynunet",
        options={"filters": [4, 8, 8]},
        outputs=NAMES,
        sampling=Sampling((2.5, 2.5, 2.5)),
        intensity=Intensity((-160.0, 240.0), "signed"),
        patch=(16, 16, 16),
        loss=Loss("dice_ce", log_dice=True),
        steps=4,
        steps_per_epoch=2,
        optimizer=Optimizer("adamw", 1e-2),
        augment=Augment(rotate_deg=(15.0, 0.0, 0.0), contrast=(0.5, 1.2), noise_hu=10.0),
        seed=3,
    )
    return dataclasses.replace(recipe, **changes)


def flat(**changes: Any) -> Recipe:
    """A small MoNet as it is trained: Nadam, plateau, Dice, dropout, whole-slab slices."""
    recipe = Recipe(
        name="tiny-flat",
        architecture="monet",
        options={"filters": 4},
        outputs=("kidney",),
        activation="sigmoid",
        sampling=Sampling((None, None, None)),
        intensity=Intensity((-150.0, 200.0), "scan"),
        patch=(1, 16, 16),
        loss=Loss("dice"),
        batch=2,
        steps=6,
        steps_per_epoch=2,
        optimizer=Optimizer("nadam", 5e-4, "plateau", weight_decay=0.0, clip=0.0),
        augment=Augment(rotate_deg=(10.0, 0.0, 0.0), scale=(0.75, 1.25), shift=0.2),
        foreground=0.0,
        slab=2,
    )
    return dataclasses.replace(recipe, **changes)


def write_decathlon(folder: Path, seeds: Sequence[int] = (0, 1)) -> Path:
    """The blocks as a data set in the Decathlon's layout; returns the folder."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    pairs = []
    for seed in seeds:
        hu, labels = arrays(seed)
        where = grid(hu.shape)
        file = f"blocks_{seed}.nii.gz"
        write_nifti(Volume(hu, where), folder / "imagesTr" / file)
        write_nifti(Volume(labels, where), folder / "labelsTr" / file)
        pairs.append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
    meta = {
        "name": "blocks",
        "licence": "Apache-2.0",
        "labels": {"0": "background", "1": "Pancreas", "3": "kidney"},
        "training": pairs,
    }
    (folder / "dataset.json").write_text(json.dumps(meta), encoding="utf-8")
    return folder
