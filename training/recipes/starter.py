"""The starter: pancreas, kidneys, liver, spleen and lesions from a handful of public CTs."""

from __future__ import annotations

import dataclasses

from models.manifest import Cleanup, Intensity, Sampling
from training.recipe import Augment, Loss, Optimizer, Recipe, Scale
from training.recipes.sizes import sized

_OUTPUTS = (
    "pancreas",
    "pancreas_tumor",
    "kidney",
    "kidney_tumor",
    "kidney_cyst",
    "liver",
    "spleen",
)
_LESIONS = ("pancreas_tumor", "kidney_tumor", "kidney_cyst")
_TINY = {"sampling": Sampling((6.0, 6.0, 6.0)), "steps": 200, "steps_per_epoch": 20}


def starter(scale: Scale = "paper") -> Recipe:
    """A small 3D U-Net at 4 mm: a patch is most of an abdomen, and serving takes a pass or two.

    Coarse on purpose. At 2.5 mm a patch of the same cost shows half a body, and a few hundred
    steps do not teach where in it one is (docs/log.md).

    Contrast, noise and shape vary far beyond the few real CTs, so that one of another phase or
    scanner is no surprise; lesions come from phantoms and from planting (the real CTs have no
    lesion labels and are taken as free of them).
    """
    paper = Recipe(
        name="starter",
        architecture="dynunet",
        options={"filters": [16, 32, 64, 128]},
        outputs=_OUTPUTS,
        sampling=Sampling((4.0, 4.0, 4.0)),
        intensity=Intensity((-160.0, 240.0), "signed"),
        patch=(64, 80, 80),
        overlap=0.25,
        cleanup=(
            Cleanup("pancreas", keep_largest=1),
            Cleanup("liver", keep_largest=1),
            Cleanup("spleen", keep_largest=1),
            Cleanup("kidney", min_ml=5.0, paired=True),
            Cleanup("kidney_tumor", min_ml=0.5),
            Cleanup("kidney_cyst", min_ml=0.5),
            Cleanup("pancreas_tumor", min_ml=0.5),
        ),
        loss=Loss("dice_ce", log_dice=True, smooth=75.0),
        steps=1500,
        batch=1,
        optimizer=Optimizer("adamw", 3e-3, "cosine", weight_decay=1e-4, clip=1.0),
        augment=Augment(
            rotate_deg=(15.0, 10.0, 10.0),
            scale=(0.8, 1.25),
            shift=0.1,
            contrast=(0.1, 1.7),
            organ_hu=20.0,
            noise_hu=25.0,
            blur_mm=2.0,
            offset_hu=10.0,
        ),
        foreground=0.7,
        phantoms=24,
        phantom_share=0.15,
        plant=0.2,
        lesion_free=_LESIONS,
    )
    return sized(
        paper,
        scale,
        tiny={
            **_TINY,
            "patch": (32, 48, 48),
            "options": {"filters": [8, 16, 32]},
        },
        small={"steps": 600},
    )


def starter_monet(scale: Scale = "paper") -> Recipe:
    """MoNet with the starter's structures at 1.5 mm in the slice, for the smallest machines."""
    paper = dataclasses.replace(
        starter(),
        name="starter-monet",
        architecture="monet",
        options={},
        sampling=Sampling((3.0, 1.5, 1.5)),
        patch=(1, 256, 256),
        overlap=0.25,
        batch=8,
        steps=1500,
        augment=dataclasses.replace(starter().augment, rotate_deg=(15.0, 0.0, 0.0)),
    )
    return sized(
        paper,
        scale,
        tiny={**_TINY, "patch": (1, 64, 64)},
        small={"steps": 600},
    )
