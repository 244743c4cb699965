"""Federated pancreas segmentation (Wang et al. 2020): one site's training."""

from __future__ import annotations

from models.manifest import Cleanup, Intensity, Sampling
from training.recipe import Loss, Optimizer, Recipe, Scale
from training.recipes.sizes import sized


def wang2020(scale: Scale = "paper") -> Recipe:
    """The C2FNAS-like network with its variational branch on pancreas and pancreatic tumor.

    From the paper (sections 2.3 to 2.5): 1 mm isotropic, HU -200..250 to -1..1, patches of 96
    voxels a side, as many on foreground as not, batch 8, Adam from 1e-4 to 1e-5 by cosine, Dice
    and cross-entropy, Kullback-Leibler loss 0.2, reconstruction loss 0.3. It names no
    augmentation and there is none. Site 1 has healthy patients and labels the pancreas alone:
    its patients are taken as free of tumors.

    Left open by the paper and guessed here: the number of epochs (500; an epoch of 36 steps is
    one pass over site 2's 286 training cases) and the overlap of patches in inference.
    """
    paper = Recipe(
        name="wang2020",
        architecture="c2fnas",
        options={"vae": True, "patch": [96, 96, 96]},
        outputs=("pancreas", "pancreas_tumor"),
        sampling=Sampling((1.0, 1.0, 1.0)),
        intensity=Intensity((-200.0, 250.0), "signed"),
        patch=(96, 96, 96),
        overlap=0.5,
        cleanup=(Cleanup("pancreas", keep_largest=1),),
        loss=Loss("dice_ce", smooth=1e-5, kl=0.2, reconstruction=0.3),
        batch=8,
        steps=18_000,
        steps_per_epoch=36,
        optimizer=Optimizer("adam", 1e-4, "cosine", weight_decay=0.0, clip=0.0, floor=0.1),
        foreground=0.5,
        lesion_free=("pancreas_tumor",),
    )
    return sized(
        paper,
        scale,
        tiny={
            "sampling": Sampling((4.0, 4.0, 4.0)),
            "patch": (96, 32, 32),
            "options": {"filters": 4, "patch": [96, 32, 32]},
            "batch": 2,
            "steps": 200,
            "steps_per_epoch": 20,
        },
        small={
            "sampling": Sampling((2.0, 2.0, 2.0)),
            "patch": (96, 64, 64),
            "options": {"filters": 8, "patch": [96, 64, 64]},
            "batch": 2,
            "steps": 2000,
        },
    )
