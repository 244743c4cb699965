"""Cases on a model's grid, and the batches that a training step sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imaging.errors import DataError
from imaging.nifti import AIR_HU
from imaging.resample import resample_nearest
from imaging.volume import to_canonical
from models.labels import BY_NAME, STRUCTURES
from models.manifest import Intensity
from models.preprocess import normalise, to_model_grid
from training.augment import augment_patch
from training.cases import Loaded
from training.lesions import KINDS, Kind, plant
from training.losses import fold
from training.recipe import Recipe

# On each side of a patch, as a part of it, so that turning and shrinking it brings in real voxels
# instead of padding. A whole number of voxels: the region's centre is the patch's.
_MARGIN = 0.2
# Voxels remembered for each structure to centre patches on.
_CENTRES = 4096


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case on the recipe's grid.

    Attributes:
        name: of the case.
        hu: int16 or float32 (Z, Y, X).
        labels: uint8 (Z, Y, X), values of ``models.labels``, merged as the recipe says.
        annotated: what the labels can speak of, the recipe's assumption of absence included.
        plantable: lesions that may be planted (the case has no labels of its own for them).
        spacing: mm (Z, Y, X).
        intensity: how the whole case is scaled, whatever patch is cut from it.
        centres: voxel indices (n, 3) for each structure that is there.
        slices: first and last slice that patches are centred on.
        phantom: whether the case is one.
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


def prepare(case: Loaded, recipe: Recipe, phantom: bool = False) -> Prepared:
    """Bring a case onto the recipe's grid.

    Raises:
        DataError: nothing in the case that the recipe could learn from.
    """
    image = to_model_grid(case.image, recipe.sampling)
    labels = resample_nearest(to_canonical(case.labels), image.geometry).array
    labels = _merged(labels, recipe)
    absent = tuple(
        kind
        for kind in KINDS
        if kind in recipe.lesion_free
        and kind not in case.annotated
        and BY_NAME[kind].parent in case.annotated
    )
    # A structure that was merged away has no channel; the one it went to is known only where the
    # data set labels that one too.
    annotated = (*(name for name in case.annotated if name not in recipe.merge), *absent)
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
    )


class Sampler:
    """Batches by step: the same seed and step give the same batch, whatever came before.

    Args:
        cases: at least one; phantoms are drawn with the recipe's ``phantom_share``.
        recipe: what to draw.
    """

    def __init__(self, cases: Sequence[Prepared], recipe: Recipe) -> None:
        if not cases:
            raise DataError("There is no case to train on; name a data set with --data.")
        self._real = [c for c in cases if not c.phantom]
        self._phantoms = [c for c in cases if c.phantom]
        self._recipe = recipe
        self._channels = channel_table(recipe)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Network input (N, 1, *space), channel targets (N, *space) int64 and folds (N, C)."""
        rng = np.random.default_rng([self._recipe.seed, step])
        samples = [self._sample(rng) for _ in range(self._recipe.batch)]
        images, targets, folds = zip(*samples, strict=True)
        return torch.stack(images)[:, None], torch.stack(targets), torch.stack(folds)

    def _sample(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        case = self._choose(rng)
        hu, labels = _region(case, self._centre(case, rng), self._recipe)
        if case.plantable and rng.random() < self._recipe.plant:
            kind = case.plantable[rng.integers(len(case.plantable))]
            hu, labels, _ = plant(hu, labels, case.spacing, kind, rng)
        image, target = augment_patch(
            hu.astype(np.float32),
            labels,
            self._recipe.patch,
            case.spacing,
            self._recipe.augment,
            rng,
        )
        values = torch.from_numpy(normalise(image.numpy(), case.intensity))
        channels = self._channels[target.long()]
        if self._recipe.patch[0] == 1:
            values, channels = values[0], channels[0]
        return values, channels, self._fold(case)

    def _fold(self, case: Prepared) -> Tensor:
        if self._recipe.activation == "sigmoid":
            return torch.zeros(1, dtype=torch.int64)
        return fold(self._recipe.outputs, case.annotated)

    def _choose(self, rng: np.random.Generator) -> Prepared:
        share = self._recipe.phantom_share
        phantom = self._phantoms and (not self._real or rng.random() < share)
        pool = self._phantoms if phantom else self._real
        return pool[rng.integers(len(pool))]

    def _centre(self, case: Prepared, rng: np.random.Generator) -> NDArray[np.int64]:
        if case.centres and rng.random() < self._recipe.foreground:
            names = sorted(case.centres)
            voxels = case.centres[names[rng.integers(len(names))]]
            chosen: NDArray[np.int64] = voxels[rng.integers(len(voxels))]
            return chosen
        centre = np.array([rng.integers(n) for n in case.hu.shape])
        centre[0] = rng.integers(case.slices[0], case.slices[1] + 1)
        if self._recipe.slab:
            # Whole slices, as the paper's loader cuts them.
            centre[1:] = np.array(case.hu.shape[1:]) // 2
        return centre


def _intensity(hu: NDArray[Any], wanted: Intensity) -> Intensity:
    """Scaling by the scan's own minimum and maximum, as the window those are for this scan."""
    if wanted.scale != "scan":
        return wanted
    low, high = (float(v) for v in np.clip((hu.min(), hu.max()), *wanted.window_hu))
    return Intensity((low, max(high, low + 1e-6)))


def channel_table(recipe: Recipe) -> Tensor:
    """Network channel (sigmoid: 1 for the structure) of each label value, int64 (256,)."""
    table = torch.zeros(256, dtype=torch.int64)
    for channel, name in enumerate(recipe.outputs):
        table[BY_NAME[name].value] = channel + 1
    return table


def _merged(labels: NDArray[np.uint8], recipe: Recipe) -> NDArray[np.uint8]:
    table = np.arange(256, dtype=np.uint8)
    for name, target in recipe.merge.items():
        table[BY_NAME[name].value] = BY_NAME[target].value
    return table[labels]


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


def _region(
    case: Prepared, centre: NDArray[np.int64], recipe: Recipe
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """The voxels around a centre, with a margin, air where the case ends."""
    size = [n + 2 * int(n * _MARGIN) for n in recipe.patch]
    start = [int(c) - n // 2 for c, n in zip(centre, size, strict=True)]
    spans = [
        slice(max(0, s), min(n, s + k)) for s, k, n in zip(start, size, case.hu.shape, strict=True)
    ]
    pads = [
        (max(0, -s), max(0, s + k - n)) for s, k, n in zip(start, size, case.hu.shape, strict=True)
    ]
    hu = np.pad(case.hu[tuple(spans)], pads, constant_values=AIR_HU)
    return hu, np.pad(case.labels[tuple(spans)], pads)
