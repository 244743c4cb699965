"""SegViz: one network a site for one organ each, or one for all from partial labels."""

from __future__ import annotations

from collections.abc import Callable

from models.manifest import Cleanup, Intensity, Sampling
from training.recipe import Augment, Loss, Optimizer, Recipe, Scale
from training.recipes.sizes import sized

# HU windows of the four sites, from the authors' notebooks.
_WINDOWS = {
    "liver": (-200.0, 200.0),
    "spleen": (-57.0, 164.0),
    "pancreas": (-87.0, 199.0),
    "kidney": (-79.0, 304.0),
}
# The window that holds all four; the authors name none for their pooled model (a guess).
_POOLED_WINDOW = (-200.0, 304.0)


def segviz(scale: Scale = "paper") -> Recipe:
    """The pooled model of the paper: all four organs, from sets that label one each.

    The paper pools what a set does not label as background, and its spleen vanishes (Dice 0).
    Unlabelled is unknown here; ``Loss(unlabelled="background")`` is the paper's way.
    """
    return _recipe("segviz", tuple(_WINDOWS), _POOLED_WINDOW, scale)


def segviz_site(organ: str) -> Callable[[Scale], Recipe]:
    """The training of the site that labels one organ, tumors counted as organ."""

    def recipe(scale: Scale = "paper") -> Recipe:
        return _recipe(f"segviz-{organ}", (organ,), _WINDOWS[organ], scale)

    return recipe


def _recipe(
    name: str, organs: tuple[str, ...], window: tuple[float, float], scale: Scale
) -> Recipe:
    """From the notebooks: 1.5x1.5x2 mm, patches 32x128x128, 4 from each of 2 cases, as many on
    foreground as not, softmax Dice, Adam at 1e-4, cosine over 150 of 500 epochs.

    They name no augmentation. An epoch's length follows the set's size there; 25 steps are a pass
    over 50 cases.
    """
    paper = Recipe(
        name=name,
        architecture="segviz_unet",
        outputs=organs,
        sampling=Sampling((2.0, 1.5, 1.5)),
        intensity=Intensity(window, "unit"),
        patch=(32, 128, 128),
        overlap=0.25,
        cleanup=tuple(
            Cleanup(o, paired=True) if o == "kidney" else Cleanup(o, keep_largest=1) for o in organs
        ),
        loss=Loss("softmax_dice", smooth=1e-5),
        batch=8,
        steps=12_500,
        steps_per_epoch=25,
        optimizer=Optimizer(
            "adam", 1e-4, "cosine", weight_decay=0.0, clip=0.0, floor=1e-5, period=150
        ),
        augment=Augment(),
        foreground=0.5,
    )
    return sized(
        paper,
        scale,
        tiny={
            "sampling": Sampling((6.0, 6.0, 6.0)),
            "patch": (48, 48, 48),
            "options": {"filters": [4, 8, 16, 16, 32]},
            "batch": 2,
            "steps": 200,
            "steps_per_epoch": 20,
        },
        small={
            "sampling": Sampling((4.0, 3.0, 3.0)),
            "patch": (48, 96, 96),
            "batch": 2,
            "steps": 2000,
        },
    )
