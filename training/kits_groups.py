"""KiTS21's evaluation: a prediction against samples of what several annotators drew.

Each kidney, tumor and cyst of a case (an *instance*) was annotated several times. A *group* is a
set of label maps made of them in which no annotation is used twice, and a case's score is the
mean over all label maps of five groups (neheller/kits21, kits21/annotation/sample_segmentations.py
and kits21/evaluation/metrics.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter, DataError
from models.labels import BY_NAME
from training.metrics import dice, mask_of
from training.surfaces import KITS21_TOLERANCES_MM, Spacing, surface_dice

Instances = tuple[tuple[Any, ...], ...]

GROUPS_PER_CASE = 5
_FILE = re.compile(r"(kidney|tumor|cyst)_instance-(\d+)_annotation-(\d+)\.nii\.gz")


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotations of one case.

    Attributes:
        case: its number, which seeds the sampling.
        kidney, tumor, cyst: for each instance its annotations in order; each a bool array
            (Z, Y, X), or whatever the reader of :func:`sampled_segmentations` takes.
    """

    case: int
    kidney: Instances
    tumor: Instances
    cyst: Instances

    def __post_init__(self) -> None:
        counts = [len(drawn) for drawn in (*self.kidney, *self.tumor, *self.cyst)]
        if not counts or not min(counts):
            raise DataError(
                f"Case {self.case} has {len(counts)} instances with {counts} annotations; each "
                "case needs an instance and each instance an annotation."
            )


@dataclass(frozen=True)
class GroupScore:
    """The mean over sampled label maps of Dice and of surface Dice at KiTS21's tolerance."""

    dice: float
    surface_dice: float


def annotation_files(folder: Path) -> Annotations:
    """The annotation files of a case's folder, e.g. ``case_00000``, as paths.

    They lie in its ``segmentations`` and are named ``kidney_instance-1_annotation-1.nii.gz``,
    with ``tumor`` and ``cyst`` likewise.

    Raises:
        DataError: a folder without a number in its name, or without annotations.
    """
    number = re.fullmatch(r"case_(\d+)", folder.name)
    if not number:
        raise DataError(f"{folder.name} is no case's folder; name one like case_00000.")
    found: dict[str, dict[int, dict[int, Path]]] = {"kidney": {}, "tumor": {}, "cyst": {}}
    for path in (folder / "segmentations").glob("*.nii.gz"):
        parts = _FILE.fullmatch(path.name)
        if parts:
            kind, instance, annotation = parts.groups()
            found[kind].setdefault(int(instance), {})[int(annotation)] = path
    kinds = {
        kind: tuple(
            tuple(drawn for _, drawn in sorted(one.items())) for _, one in sorted(of.items())
        )
        for kind, of in found.items()
    }
    return Annotations(int(number[1]), **kinds)


def sampled_segmentations(
    annotations: Annotations, read: Callable[[Any], NDArray[np.bool_]] = np.asarray
) -> Iterator[NDArray[np.uint8]]:
    """The label maps of all groups of a case, group after group.

    A group has as many label maps as the instance with the fewest annotations has of them. For
    each instance a random offset is drawn; the group's i-th label map uses annotation
    (offset + i) modulo the instance's number of annotations. Kidneys are placed first, then
    cysts, then tumors; what comes later overwrites. Ureters and vessels are no part of KiTS21.

    Args:
        annotations: of the case.
        read: gives an annotation's mask (Z, Y, X); called for every use, so that it decides what
            is kept in memory.

    Yields:
        uint8 (Z, Y, X), values of ``models.labels``.

    Raises:
        DataError: masks of unequal shapes, or not of bool.
    """
    # The legacy generator, and kidney, tumor, cyst as the order of drawing: the challenge's own
    # samples depend on both.
    rng = np.random.RandomState(annotations.case)
    kinds = (annotations.kidney, annotations.tumor, annotations.cyst)
    size = min(len(drawn) for kind in kinds for drawn in kind)
    for _ in range(GROUPS_PER_CASE):
        offsets = [[rng.randint(len(drawn)) for drawn in kind] for kind in kinds]
        for i in range(size):
            kidney, tumor, cyst = (
                [drawn[(k + i) % len(drawn)] for drawn, k in zip(kind, starts, strict=True)]
                for kind, starts in zip(kinds, offsets, strict=True)
            )
            placed = (("kidney", kidney), ("kidney_cyst", cyst), ("kidney_tumor", tumor))
            yield _merged([(name, read(one)) for name, chosen in placed for one in chosen])


def score_groups(
    predicted: NDArray[np.uint8], samples: Iterable[NDArray[np.uint8]], spacing: Spacing
) -> dict[str, GroupScore]:
    """A case's score for each hierarchical evaluation class, by the names of ``models.labels``.

    ``kidney`` is the challenge's kidney and masses, ``kidney_masses`` its masses,
    ``kidney_tumor`` its tumor. Where a mask is empty on both sides it scores 1, on one side 0.

    Args:
        predicted: label map (Z, Y, X).
        samples: label maps (Z, Y, X) of :func:`sampled_segmentations`.
        spacing: mm (Z, Y, X).

    Raises:
        BadParameter: no samples, or shapes that differ.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in KITS21_TOLERANCES_MM}
    for truth in samples:
        for name, tolerance in KITS21_TOLERANCES_MM.items():
            ours, theirs = mask_of(predicted, name), mask_of(truth, name)
            # First the one that refuses unequal shapes.
            surface = surface_dice(ours, theirs, spacing, tolerance)
            found[name].append((dice(ours, theirs), surface))
    if not found["kidney"]:
        raise BadParameter("There is no sampled label map to score against; give at least one.")
    means = {name: np.mean(pairs, axis=0) for name, pairs in found.items()}
    return {name: GroupScore(float(d), float(s)) for name, (d, s) in means.items()}


def _merged(placed: list[tuple[str, NDArray[np.bool_]]]) -> NDArray[np.uint8]:
    kinds = {(mask.shape, mask.dtype.name) for _, mask in placed}
    if len(kinds) > 1 or placed[0][1].dtype != bool:
        raise DataError(f"The annotations are {sorted(kinds)}; they must be bool and of one shape.")
    labels = np.zeros(placed[0][1].shape, np.uint8)
    for name, mask in placed:
        labels[mask] = BY_NAME[name].value
    return labels
