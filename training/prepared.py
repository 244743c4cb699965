"""A case on a model's grid: what training draws its patches from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import DataError
from imaging.resample import resample_nearest
from imaging.volume import to_canonical
from models.labels import BY_NAME, STRUCTURES, UNKNOWN
from models.manifest import Intensity
from models.preprocess import to_model_grid
from training.cases import Loaded
from training.lesions import KINDS, Kind
from training.recipe import Recipe

# About so many voxels are remembered for each structure to centre patches on.
_CENTRES = 4096
# Losses of networks with sigmoids, in which a voxel is in a structure or not.
_ALL_KNOWN = ("dice", "task_dice_bce")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case on the recipe's grid.

    Attributes:
        name: of the case.
        hu: int16 or float32 (Z, Y, X).
        labels: uint8 (Z, Y, X), values of ``models.labels``, lesions that the model does not
            name as their organ.
        annotated: what the labels can speak of, the recipe's assumption of absence included.
        plantable: lesions that may be planted (the case has no labels of its own for them).
        spacing: mm (Z, Y, X).
        intensity: how the whole case is scaled, whatever patch is cut from it.
        centres: voxel indices (n, 3) for each structure that is there.
        slices: first and last slice that patches are centred on.
        phantom: whether the case is one.
        group: of the :class:`training.cases.Case`: its patient, or its name.
    """

    name: str
    hu: NDArray[Any]
    labels: NDArray[np.uint8]
    annotated: tuple[str, ...]
    plantable: tuple[Kind, ...]
    spacing: tuple[float, float, float]
    intensity: Intensity
    centres: dict[str, NDArray[np.int64]]
    slices: tuple[int, int]
    phantom: bool = False
    group: str = ""


def prepare(case: Loaded, recipe: Recipe, phantom: bool = False) -> Prepared:
    """Bring a case onto the recipe's grid.

    Raises:
        DataError: nothing in the case that the recipe could learn from, or unknown voxels for a
            loss that would take them for known.
    """
    image = to_model_grid(case.image, recipe.sampling)
    labels = resample_nearest(to_canonical(case.labels), image.geometry).array
    labels = merged_values(recipe)[labels]
    if recipe.loss.name in _ALL_KNOWN and (labels == UNKNOWN).any():
        raise DataError(
            f"Case {case.name} has unknown voxels, which the loss {recipe.loss.name} cannot leave "
            "out; train a recipe with dice_ce or hec.",
            case=case.name,
        )
    absent = tuple(
        kind
        for kind in KINDS
        if kind in recipe.lesion_free
        and kind not in case.annotated
        and BY_NAME[kind].parent in case.annotated
    )
    annotated = (*case.annotated, *absent)
    if not set(annotated) & set(recipe.outputs):
        raise DataError(
            f"Case {case.name} annotates {case.annotated}, none of which {recipe.name} learns "
            f"({', '.join(recipe.outputs)}); leave it out.",
            case=case.name,
        )
    return Prepared(
        case.name,
        image.array,
        labels,
        annotated,
        absent,
        image.geometry.spacing,
        _intensity(image.array, recipe.intensity),
        _centres(labels, recipe),
        _slices(labels, recipe),
        phantom,
        case.group,
    )


def _intensity(hu: NDArray[Any], wanted: Intensity) -> Intensity:
    """Scaling by the scan's own minimum and maximum, as the window those are for this scan."""
    if wanted.scale != "scan":
        return wanted
    low, high = (float(v) for v in np.clip((hu.min(), hu.max()), *wanted.window_hu))
    return Intensity((low, max(high, low + 1e-6)))


def merged_values(recipe: Recipe) -> NDArray[np.uint8]:
    """The value (256,) that each label value is learned as: a lesion without a channel of its own
    as its organ, anything else as itself."""
    table = np.arange(256, dtype=np.uint8)
    for lesion in STRUCTURES:
        if lesion.parent in recipe.outputs and lesion.name not in recipe.outputs:
            table[lesion.value] = BY_NAME[lesion.parent].value
    return table


def _centres(labels: NDArray[np.uint8], recipe: Recipe) -> dict[str, NDArray[np.int64]]:
    found = {}
    for structure in STRUCTURES:
        if structure.name not in recipe.outputs:
            continue
        voxels = np.argwhere(labels == structure.value)
        if len(voxels):
            found[structure.name] = voxels[:: max(1, len(voxels) // _CENTRES)]
    return found


def _slices(labels: NDArray[np.uint8], recipe: Recipe) -> tuple[int, int]:
    last = labels.shape[0] - 1
    if not recipe.slab:
        return 0, last
    wanted = [BY_NAME[name].value for name in recipe.outputs]
    rows = np.flatnonzero(np.isin(labels, wanted).any(axis=(1, 2)))
    if not len(rows):
        return 0, last
    return max(0, int(rows[0]) - recipe.slab), min(last, int(rows[-1]) + recipe.slab)
