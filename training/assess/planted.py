"""Planted lesions: how many are found by size, and what is found where nothing was planted."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import binomtest

from models.labels import STRUCTURES, structure
from training.assess.subjects import Bench
from training.planting import REAL, Kind, Planted, PlantedLesion, Shapes, plant_case

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]

# A lesion is found where both hold: this part of it is covered, and the Dice of it and the
# predicted lesions that touch it is this. Either alone is easier: a speck has no Dice, a mask of
# half the organ covers everything.
OVERLAP = 0.1
# Upper bounds of the sizes that are told apart, mm; the last one has none.
SIZES_MM = (10.0, 20.0, 30.0, 50.0, np.inf)
# Several at a time: a prediction costs more than a lesion.
_COUNT = (2, 3)


@dataclass(frozen=True)
class Rate:
    """So many of so many, with Wilson's 95 % interval (Wilson 1927)."""

    found: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high; 0 to 1 of none."""
        if not self.of:
            return 0.0, 1.0
        bounds = binomtest(self.found, self.of).proportion_ci(0.95, "wilson")
        return float(bounds.low), float(bounds.high)

    @property
    def share(self) -> float:
        """The part found; 0 of none."""
        return self.found / self.of if self.of else 0.0


def measure(bench: Bench, shapes: Shapes, copies: int, seed: int) -> dict[str, Any]:
    """Plant lesions of shapes into one case several times, and look for them.

    Args:
        bench: the case and its model.
        shapes: of the part that no training has seen.
        copies: how many times.
        seed: of all that is planted.

    Returns:
        ``lesions``, each with what was planted, ``copy``, ``covered`` and ``dice`` of the
        prediction of its own kind, ``any_covered`` and ``any_dice`` of any lesion of its organ,
        ``found`` and ``any_found``, and ``already`` where the untouched CT's prediction has such a
        lesion there, which counts as not found; and ``untouched``: by kind the ``lesions`` that
        are predicted on the CT as it is, in ml.
    """
    kinds = tuple(kind for kind in REAL if kind in bench.subject.manifest.outputs)
    before = bench.untouched[0]
    lesions = []
    for copy in range(copies if kinds else 0):
        planted = plant_copy(bench, shapes, kinds, copy, seed)
        predicted = bench.segment(planted.image).array
        for lesion, target in targets(planted):
            judged = _judged(target, predicted, before, lesion.kind)
            lesions.append({"copy": copy, **dataclasses.asdict(lesion), **judged})
    return {
        "lesions": lesions,
        "untouched": {
            kind: parts_ml(before == structure(kind).value, bench.loaded.image.geometry.voxel_ml)
            for kind in kinds
        },
    }


def plant_copy(
    bench: Bench, shapes: Shapes, kinds: tuple[Kind, ...], copy: int, seed: int
) -> Planted:
    """One copy of a case with lesions, the same whatever other copies and cases there are."""
    name = hashlib.sha256(bench.loaded.name.encode()).digest()[:8]
    rng = np.random.default_rng([seed, copy, *name])
    return plant_case(bench.loaded, shapes, rng, kinds, _COUNT)


def targets(planted: Planted) -> list[tuple[PlantedLesion, Mask]]:
    """Each planted lesion with its mask (Z, Y, X): the part of its label that its centre is in, or
    nearest to. Two that grew together are one part, and each is judged by all of it."""
    found = []
    for lesion in planted.lesions:
        of_kind = planted.labels.array == structure(lesion.kind).value
        box = _box(of_kind)
        parts, _ = ndimage.label(of_kind[box], np.ones((3, 3, 3)))
        centre = planted.labels.geometry.to_index(lesion.centre_mm) - [s.start for s in box]
        voxels = np.argwhere(parts)
        apart = (voxels - centre) * planted.labels.geometry.spacing
        nearest = voxels[np.argmin((apart * apart).sum(1))]
        mask = np.zeros(of_kind.shape, np.bool_)
        mask[box] = parts == parts[tuple(nearest)]
        found.append((lesion, mask))
    return found


def overlap(target: Mask, predicted: Mask) -> tuple[float, float]:
    """The part of a lesion that is covered, and its Dice with the predicted parts that touch it."""
    box = _box(target | predicted)
    target, predicted = target[box], predicted[box]
    parts, _ = ndimage.label(predicted, np.ones((3, 3, 3)))
    touching = np.unique(parts[target & predicted])
    hit = np.isin(parts, touching) if len(touching) else np.zeros_like(predicted)
    both, true = int((hit & target).sum()), int(target.sum())
    return both / true, 2 * both / (true + int(hit.sum()))


def parts_ml(mask: Mask, voxel_ml: float) -> list[float]:
    """The volumes of a mask's connected parts, the largest first."""
    if not mask.any():
        return []
    parts, _ = ndimage.label(mask[_box(mask)], np.ones((3, 3, 3)))
    volumes = np.bincount(parts.ravel())[1:] * voxel_ml
    return sorted(volumes.tolist(), reverse=True)


def by_size(
    lesions: Sequence[Mapping[str, Any]], field: str = "found"
) -> dict[str, dict[str, Rate]]:
    """The rate found by kind (``all`` last) and size.

    Args:
        lesions: of :func:`measure`, of any cases.
        field: ``found`` or ``any_found``.
    """
    kinds = [kind for kind in REAL if any(lesion["kind"] == kind for lesion in lesions)]
    found: dict[str, dict[str, Rate]] = {}
    for kind in (*kinds, "all"):
        own = [lesion for lesion in lesions if kind in (lesion["kind"], "all")]
        groups = {name: _in_size(own, name) for name in size_names()}
        found[kind] = {
            name: Rate(sum(bool(lesion[field]) for lesion in group), len(group))
            for name, group in (groups | {"all": own}).items()
        }
    return found


def size_names() -> list[str]:
    """The sizes that are told apart, in words."""
    bounds = [f"{mm / 10:g}" for mm in SIZES_MM[:-1]]
    between = [f"{low} to {high} cm" for low, high in itertools.pairwise(bounds)]
    return [f"under {bounds[0]} cm", *between, f"over {bounds[-1]} cm"]


def _in_size(lesions: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    place = size_names().index(name)
    low, high = (0.0, *SIZES_MM)[place : place + 2]
    return [lesion for lesion in lesions if low <= lesion["diameter_mm"] < high]


def _judged(
    target: Mask, predicted: NDArray[np.uint8], before: NDArray[np.uint8], kind: Kind
) -> dict[str, Any]:
    """What a prediction says of one planted lesion."""
    own = structure(kind)
    siblings = [s.value for s in STRUCTURES if s.parent == own.parent]
    found: dict[str, Any] = {}
    for prefix, values in (("", [own.value]), ("any_", siblings)):
        covered, dice = overlap(target, np.isin(predicted, values))
        already = float(np.isin(before[target], values).mean())
        found |= {
            f"{prefix}covered": covered,
            f"{prefix}dice": dice,
            f"{prefix}already": already > OVERLAP,
            f"{prefix}found": covered > OVERLAP and dice > OVERLAP and already <= OVERLAP,
        }
    return found


def _box(mask: Mask) -> Box:
    """The smallest box that holds a mask which is not empty."""
    return ndimage.find_objects(mask.view(np.uint8))[0]  # type: ignore[no-any-return]
