"""MoNet as published (Knolle et al. 2020): pancreas with its tumor, slice by slice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from models.manifest import Intensity, Sampling
from training.recipe import Augment, Loss, Optimizer, Recipe, Scale
from training.recipes.sizes import sized


def monet(scale: Scale = "paper") -> Recipe:
    """The paper's training on the Decathlon's pancreas set.

    From the paper: 256x256 bilinear, tumor merged into the pancreas, Dice loss, Nadam at 5e-4,
    a tenth after 2 epochs of stagnation, rotation to 10 degrees, zoom +-0.25, shift 0.2. From the
    authors' code: HU -150..200 then each scan's own minimum and maximum to 0..1, slices from the
    pancreas' extent +-16 only. The batch size is that of their federated script (12); the paper
    names none, nor a number of epochs ("to convergence"): early stop after 10 epochs here.
    """
    paper = Recipe(
        name="monet",
        architecture="monet",
        outputs=("pancreas",),
        activation="sigmoid",
        sampling=Sampling((None, None, None), (None, 256, 256)),
        intensity=Intensity((-150.0, 200.0), "scan"),
        patch=(1, 256, 256),
        overlap=0.0,
        loss=Loss("dice", smooth=1.0),
        batch=12,
        steps=20_000,
        steps_per_epoch=500,
        optimizer=Optimizer("nadam", 5e-4, "plateau", weight_decay=0.0, clip=0.0),
        augment=Augment(rotate_deg=(10.0, 0.0, 0.0), scale=(0.75, 1.25), shift=0.2),
        foreground=0.0,
        slab=16,
        patience=10,
    )
    return sized(
        paper,
        scale,
        tiny={
            "sampling": Sampling((None, None, None), (None, 64, 64)),
            "patch": (1, 64, 64),
            "batch": 6,
            "steps": 400,
            "steps_per_epoch": 80,
        },
        small={
            "sampling": Sampling((None, None, None), (None, 128, 128)),
            "patch": (1, 128, 128),
            "steps": 3000,
            "steps_per_epoch": 200,
        },
    )


def baseline(architecture: str) -> Callable[[Scale], Recipe]:
    """MoNet's training with another network: one of the paper's three baselines."""

    def recipe(scale: Scale = "paper") -> Recipe:
        same = monet(scale)
        name = f"monet-{architecture.replace('_', '-')}"
        return dataclasses.replace(same, name=name, architecture=architecture)

    return recipe
