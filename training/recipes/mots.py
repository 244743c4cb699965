"""DoDNet on MOTS (Zhang et al. 2021): seven partly labelled sets, one network, a dynamic head."""

from __future__ import annotations

import dataclasses

from models.manifest import Cleanup, Intensity, Sampling
from training.recipe import Augment, Loss, Optimizer, Recipe, Scale, Task
from training.recipes.kits21 import from_scratch
from training.recipes.sizes import sized

# The seven data sets in the order of the head's one-hot code. Organs hold their tumors; the
# vessels' set labels tumors of the liver, but not the liver.
TASKS: tuple[Task, ...] = (
    ("liver", "liver_tumor"),
    ("kidney", "kidney_tumor"),
    ("hepatic_vessel", "liver_tumor"),
    ("pancreas", "pancreas_tumor"),
    (None, "colon_tumor"),
    (None, "lung_tumor"),
    ("spleen", None),
)
_OUTPUTS = tuple(dict.fromkeys(name for task in TASKS for name in task if name))
# Parts of at most 50 voxels of 0.8 x 0.8 x 1.5 mm are dropped.
_SPECK_ML = 50 * 0.8 * 0.8 * 1.5 / 1000


def mots_dodnet(scale: Scale = "paper") -> Recipe:
    """The paper's training, figures from its text and its public code.

    0.8x0.8x1.5 mm, HU +-325 to -1..1, patches 64x192x192, 80 % of them in the labels' box grown by
    32 voxels, zoom 0.7 to 1.4 for every fifth, mirrored along all axes, batch 2, SGD with
    momentum 0.99 from 1e-2 by poly 0.9, 1000 epochs of 250 steps, Dice and binary cross-entropy
    over what is labelled.

    Inference overlaps by a half; the eightfold mirroring of the paper is left out.
    """
    paper = Recipe(
        name="mots-dodnet",
        architecture="dodnet",
        options={"tasks": len(TASKS)},
        outputs=_OUTPUTS,
        activation="sigmoid",
        sampling=Sampling((1.5, 0.8, 0.8)),
        intensity=Intensity((-325.0, 325.0), "signed"),
        patch=(64, 192, 192),
        overlap=0.5,
        cleanup=_CLEANUP,
        loss=Loss("task_dice_bce"),
        tasks=TASKS,
        batch=2,
        steps=250_000,
        steps_per_epoch=250,
        optimizer=Optimizer("sgd", 1e-2, "poly", weight_decay=0.0, clip=0.0),
        augment=Augment(affine_p=0.2, scale=(0.7, 1.4), mirror=(True, True, True)),
        foreground=0.8,
        foreground_box=32,
    )
    return sized(
        paper,
        scale,
        tiny={
            "sampling": Sampling((4.0, 4.0, 4.0)),
            "patch": (48, 48, 48),
            "options": {"widths": [16, 16, 16, 32, 32]},
            "steps": 200,
            "steps_per_epoch": 20,
        },
        small={
            "sampling": Sampling((3.0, 2.0, 2.0)),
            "patch": (48, 96, 96),
            "options": {"widths": [16, 16, 32, 64, 64]},
            "steps": 2000,
            "steps_per_epoch": 100,
        },
    )


def mots_kits21(scale: Scale = "paper") -> Recipe:
    """The pretraining of the KiTS21 paper: its own network under DoDNet's head, on MOTS.

    The paper says that its backbone is pretrained with the dynamic head on MOTS, and no more: loss
    and length are DoDNet's, everything else that of its own training (a guess).
    """
    own = from_scratch(scale)
    steps = {"tiny": 600, "small": 4000, "paper": 250_000}[own.scale]
    return dataclasses.replace(
        own,
        name="mots-kits21",
        options={**own.options, "tasks": len(TASKS)},
        outputs=_OUTPUTS,
        activation="sigmoid",
        loss=Loss("task_dice_bce"),
        tasks=TASKS,
        cleanup=_CLEANUP,
        steps=steps,
    )


_CLEANUP = (
    Cleanup("liver", keep_largest=1),
    Cleanup("pancreas", keep_largest=1),
    Cleanup("kidney", keep_largest=2),
    Cleanup("kidney_tumor", keep_largest=1),
    Cleanup("hepatic_vessel", min_ml=_SPECK_ML),
    Cleanup("liver_tumor", min_ml=_SPECK_ML),
    Cleanup("pancreas_tumor", min_ml=_SPECK_ML),
    Cleanup("colon_tumor", keep_largest=1),
    Cleanup("lung_tumor", keep_largest=1),
    Cleanup("spleen", keep_largest=1),
)
