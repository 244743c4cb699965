"""The starter: pancreas, kidneys, liver, spleen and lesions from a handful of public CTs."""

from __future__ import annotations

import dataclasses

from models.manifest import Cleanup, Intensity, Sampling
from training.recipe import Augment, Loss, Optimizer, Recipe, Scale
from training.recipes.sizes import sized

_ORGANS = ("pancreas", "kidney", "liver", "spleen")
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
_CLEANUP = (
    # Between its head and its body it is thin, and a mask may break there.
    Cleanup("pancreas", least_part=0.4),
    Cleanup("liver", keep_largest=1),
    Cleanup("spleen", keep_largest=1),
    Cleanup("kidney", min_ml=5.0, paired=True),
    Cleanup("kidney_tumor", min_ml=0.5, attached=True),
    Cleanup("kidney_cyst", min_ml=0.5, attached=True),
    Cleanup("pancreas_tumor", min_ml=0.5, attached=True),
)
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
_NARROW = {"filters": [8, 16, 32]}
_SHORT = {"steps": 750}


def starter(scale: Scale = "paper") -> Recipe:
    """Two small 3D U-Nets that see and answer at 2.5 mm and work at 5 mm.

    One finds organs, the other what of them is a lesion; each is trained by itself
    (:func:`starter_organs`, :func:`starter_lesions`). Together they are trained where a model of
    both is gone on with.
    """
    organs, lesions = starter_organs(), starter_lesions()
    paper = dataclasses.replace(
        organs,
        name="starter",
        architecture="lesion_cascade",
        # Background, pancreas and its tumor, kidney with tumor and cyst, liver, spleen.
        options={
            "organ_of": [0, 1, 1, 3, 3, 3, 6, 7],
            "organs": organs.options,
            "lesions": lesions.options,
        },
        outputs=_OUTPUTS,
        parts={"organs": organs.name, "lesions": lesions.name},
        loss=lesions.loss,
        optimizer=dataclasses.replace(organs.optimizer, lr=1e-3),
        # Going on with both was not tried with the mean of weights.
        steps=3000,
        averaged=0.0,
        frozen_norms=0.6,
        copy_share=lesions.copy_share,
        plant=lesions.plant,
    )
    narrow = {"organs": organs.options | _NARROW, "lesions": lesions.options | _NARROW}
    tiny = {**_TINY, "patch": (32, 48, 48), "options": narrow}
    return sized(paper, scale, tiny=tiny, small=_SHORT)


def starter_organs(scale: Scale = "paper") -> Recipe:
    """The starter's first network; it learns a lesion as its organ.

    A patch shows 16 to 24 cm of a body, enough to know where in it one is. What a hospital's
    scanner, protocol and patients vary is drawn anew for every patch, far beyond the few real CTs.
    """
    paper = Recipe(
        name="starter-organs",
        architecture="subpixel_unet",
        # Batch norm, so that a mask does not depend on what else a patch shows (docs/log.md).
        options={"filters": [16, 64, 96, 128], "norm": "batch"},
        outputs=_ORGANS,
        sampling=Sampling((2.5, 2.5, 2.5), body=True),
        intensity=Intensity((-160.0, 240.0), "signed"),
        patch=(64, 96, 96),
        # Masks are the same with more of it, and with other windows of this size (docs/log.md).
        overlap=0.15,
        window=(128, 160, 192),
        half=True,
        cleanup=_CLEANUP,
        # It works at 5 mm, and the CT knows better where an edge is (docs/log.md).
        edge_mm=3.0,
        loss=Loss("dice_ce", log_dice=True, smooth=100.0),
        steps=3600,
        steps_per_epoch=50,
        batch=1,
        optimizer=Optimizer("adamw", 2e-3, "cosine", weight_decay=1e-4, clip=1.0, warmup=50),
        augment=_AUGMENT,
        # What a single step ends with comes and goes on a CT like none of these (docs/log.md).
        averaged=1 / 3,
        frozen_norms=0.75,
        foreground=0.75,
        phantoms=24,
        phantom_share=0.1,
        # Few steps are spent on few things: most patches show organs as they are (docs/log.md).
        copy_share=0.1,
        strangers=12,
        plant=0.05,
        lesion_free=_LESIONS,
    )
    tiny = {**_TINY, "patch": (32, 48, 48), "options": paper.options | _NARROW}
    return sized(paper, scale, tiny=tiny, small=_SHORT)


def starter_lesions(scale: Scale = "paper") -> Recipe:
    """The starter's second network; small patches around the organs that may have lesions.

    The real CTs have no lesion labels and are taken as free of them: lesions come from planting.
    What varies between scanners varies less here, since it hides lesions (docs/log.md).
    """
    paper = dataclasses.replace(
        starter_organs(),
        name="starter-lesions",
        options={"filters": [16, 64, 96], "norm": "batch"},
        # Behind bounds on confidence a mean loses fewer of what is there (docs/log.md).
        averaged=0.11,
        frozen_norms=0.13,
        outputs=_OUTPUTS[:-2],
        patch=(48, 48, 48),
        cleanup=(),
        edge_mm=0.0,
        # Dice finds small lesions too, and what is none is learned within organs (docs/log.md).
        loss=Loss("dice_ce", log_dice=True, smooth=5.0, within=2.0),
        batch=4,
        augment=dataclasses.replace(
            _AUGMENT,
            bend_mm=3.0,
            phase_p=0.2,
            filling_p=0.1,
            blur_mm=1.0,
            sharpen=0.5,
            noise_hu=12.0,
            streak_hu=5.0,
            thick_p=0.1,
            field_p=0.05,
        ),
        steps=4600,
        foreground=1.0,
        phantoms=6,
        strangers=0,
        copy_share=0.2,
        plant=0.4,
        lesion_free=_LESIONS[:-1],
    )
    tiny = {**_TINY, "patch": (16, 32, 32), "options": _NARROW}
    return sized(paper, scale, tiny=tiny, small=_SHORT)


def starter_finder(scale: Scale = "paper") -> Recipe:
    """The starter at 7.5 mm: it says where the starter need look (:mod:`models.finder`)."""
    paper = dataclasses.replace(
        starter_organs(),
        name="starter-finder",
        outputs=_OUTPUTS,
        options={"filters": [16, 32, 64]},
        averaged=0.0,
        frozen_norms=0.0,
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
    """MoNet with the starter's structures, 2.5 mm in slices of 5 mm, for the smallest machines."""
    paper = dataclasses.replace(
        starter_organs(),
        name="starter-monet",
        outputs=_OUTPUTS,
        architecture="monet",
        # Norms that follow within hundreds of steps; nothing is dropped of what is hardly learned.
        options={"dropout": 0.0, "momentum": 0.1},
        averaged=0.0,
        frozen_norms=0.0,
        sampling=Sampling((5.0, 2.5, 2.5), body=True),
        patch=(1, 160, 160),
        window=None,
        overlap=0.25,
        loss=Loss("dice_ce", log_dice=True, smooth=20.0, batch_dice=True),
        batch=8,
        steps=1500,
        optimizer=Optimizer("adamw", 3e-3, "cosine", weight_decay=1e-4, clip=1.0, warmup=50),
        augment=dataclasses.replace(_AUGMENT, rotate_deg=(15.0, 0.0, 0.0)),
    )
    return sized(
        paper,
        scale,
        tiny={**_TINY, "patch": (1, 64, 64)},
        small={"steps": 600},
    )
