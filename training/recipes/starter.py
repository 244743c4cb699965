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
# The liver's are planted as liver: a dark spot in it is no hole.
_LESIONS = ("pancreas_tumor", "kidney_tumor", "kidney_cyst", "liver_tumor")
# Another phase, scanner, protocol and body for every patch; ranges by eye, wider than plausible.
_AUGMENT = Augment(
    affine_p=0.7,
    rotate_deg=(15.0, 10.0, 10.0),
    scale=(0.8, 1.25),
    shift=0.1,
    bend_mm=6.0,
    organ_scale=(0.75, 1.33),
    phase_p=0.5,
    plain_p=0.4,
    filling_p=0.2,
    around_p=0.2,
    offset_hu=10.0,
    blur_mm=2.0,
    sharpen=1.5,
    noise_hu=35.0,
    grain_mm=3.0,
    starve=0.5,
    streak_hu=20.0,
    thick_p=0.3,
    thick_mm=(2.5, 6.0),
    field_p=0.15,
    field_mm=(120.0, 200.0),
    cut_p=0.25,
)
_TINY = {"sampling": Sampling((6.0, 6.0, 6.0)), "steps": 200, "steps_per_epoch": 20}


def starter(scale: Scale = "paper") -> Recipe:
    """A small 3D U-Net that sees and answers at 2.5 mm and works at 5 mm.

    A patch shows 16 to 24 cm of a body, enough to know where in it one is. What a hospital's
    scanner, protocol and patients vary is drawn anew for every patch, far beyond the few real CTs;
    lesions come from planting and from phantoms, since the real CTs have no lesion labels and are
    taken as free of them.
    """
    paper = Recipe(
        name="starter",
        architecture="subpixel_unet",
        options={"filters": [32, 64, 96, 128]},
        outputs=_OUTPUTS,
        sampling=Sampling((2.5, 2.5, 2.5), body=True),
        intensity=Intensity((-160.0, 240.0), "signed"),
        patch=(64, 96, 96),
        overlap=0.25,
        # Kidneys and livers are better where more is seen at once, and it is faster (docs/log.md).
        window=(112, 144, 192),
        half=True,
        cleanup=(
            Cleanup("pancreas", keep_largest=1),
            Cleanup("liver", keep_largest=1),
            Cleanup("spleen", keep_largest=1),
            Cleanup("kidney", min_ml=5.0, paired=True),
            Cleanup("kidney_tumor", min_ml=0.3, attached=True),
            Cleanup("kidney_cyst", min_ml=0.3, attached=True),
            Cleanup("pancreas_tumor", min_ml=0.3, attached=True),
        ),
        # It works at 5 mm, and the CT knows better where an edge is (docs/log.md).
        edge_mm=3.0,
        loss=Loss("dice_ce", log_dice=True, smooth=100.0),
        steps=3000,
        steps_per_epoch=50,
        batch=1,
        optimizer=Optimizer("adamw", 2e-3, "cosine", weight_decay=1e-4, clip=1.0, warmup=50),
        augment=_AUGMENT,
        foreground=0.75,
        phantoms=24,
        phantom_share=0.1,
        # Few steps are spent on few things: most patches show organs as they are (docs/log.md).
        copy_share=0.1,
        strangers=12,
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
        small={"steps": 1000},
    )


def starter_finder(scale: Scale = "paper") -> Recipe:
    """The starter at 7.5 mm: it says where the starter need look (:mod:`models.finder`)."""
    paper = dataclasses.replace(
        starter(),
        name="starter-finder",
        options={"filters": [16, 32, 64]},
        sampling=Sampling((7.5, 7.5, 7.5), body=True),
        patch=(32, 48, 48),
        window=(64, 64, 80),
        cleanup=(),
        edge_mm=0.0,
        batch=2,
        steps=2000,
    )
    return sized(
        paper,
        scale,
        tiny={**_TINY, "sampling": Sampling((12.0, 12.0, 12.0)), "patch": (16, 32, 32)},
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
        window=None,
        overlap=0.25,
        batch=8,
        steps=1500,
        augment=dataclasses.replace(_AUGMENT, rotate_deg=(15.0, 0.0, 0.0)),
    )
    return sized(
        paper,
        scale,
        tiny={**_TINY, "patch": (1, 64, 64)},
        small={"steps": 600},
    )
