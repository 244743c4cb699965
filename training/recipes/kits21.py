"""Transfer learning for KiTS21: kidney, tumor and cyst from DoDNet-pretrained weights."""

from __future__ import annotations

import dataclasses

from models.manifest import Intensity, Sampling
from training.recipe import Augment, Loss, Optimizer, Recipe, Scale
from training.recipes.sizes import sized

# Shared with the pretraining, whose weights must fit.
TINY = {
    "sampling": Sampling((6.0, 6.0, 6.0)),
    "patch": (48, 48, 48),
    "options": {
        "planes": [4, 8, 8, 16],
        "decoder": [32, 16, 16, 8],
        "stem": 8,
        "repeats": [1, 1, 1, 1],
    },
    "steps": 200,
    "steps_per_epoch": 20,
}
SMALL = {
    "sampling": Sampling((2.5, 2.5, 2.5)),
    "patch": (64, 64, 64),
    "options": {
        "planes": [8, 16, 32, 40],
        "decoder": [128, 64, 32, 16],
        "stem": 16,
        "repeats": [2, 2, 2, 2],
    },
    "steps": 2000,
    "steps_per_epoch": 100,
}


def transfer(scale: Scale = "paper") -> Recipe:
    """The paper's fine-tuning: as from scratch, with the pretrained backbone's weights."""
    return dataclasses.replace(from_scratch(scale), name="kits21-transfer", pretrain="mots-kits21")


def from_scratch(scale: Scale = "paper") -> Recipe:
    """The paper's network and training without pretraining.

    From the paper: 0.78125 mm isotropic, patches of 128 voxels a side, scaling, rotation,
    brightness, contrast, gamma and noise, Dice and cross-entropy plus 0.1 and 0.3 times those of
    the two hierarchical classes, SGD with momentum 0.99 from 0.01 by poly 0.9, 100 epochs for its
    tables (1000 for the submission).

    It trains "using the nnUNet framework", whose figures fill the rest: batch 2, 250 steps an
    epoch, every second patch on foreground, gradients clipped at 12, weight decay 3e-5, rotation
    to 30 degrees, zoom 0.7 to 1.4, each with its probabilities. nnU-Net's intensity scaling is
    affine in the window -79..304 HU, its KiTS fingerprint [from memory]; instance norm makes the
    affine part immaterial.
    """
    paper = Recipe(
        name="kits21-scratch",
        architecture="kits21_resunet",
        outputs=("kidney", "kidney_tumor", "kidney_cyst"),
        sampling=Sampling((0.78125, 0.78125, 0.78125)),
        intensity=Intensity((-79.0, 304.0), "signed"),
        patch=(128, 128, 128),
        overlap=0.5,
        loss=Loss("hec", smooth=1e-5, hec=(0.1, 0.3)),
        batch=2,
        steps=25_000,
        steps_per_epoch=250,
        optimizer=Optimizer("sgd", 1e-2, "poly", weight_decay=3e-5, clip=12.0),
        augment=Augment(
            affine_p=0.36,  # nnU-Net turns and scales with 0.2 each
            rotate_deg=(30.0, 30.0, 30.0),
            scale=(0.7, 1.4),
            mirror=(True, True, True),
            input_p=0.15,
            brightness=(0.75, 1.25),
            spread=(0.75, 1.25),
            gamma=(0.7, 1.5),
            input_noise=0.3,
        ),
        foreground=0.5,
    )
    return sized(paper, scale, tiny=TINY, small=SMALL)
