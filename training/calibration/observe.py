"""What a model says of a copy, beside what is true of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.geometry import Geometry
from imaging.resample import resample_nearest
from imaging.volume import Volume, to_canonical
from models.confidence import Evidence, Lesion, is_lesion
from models.labels import BY_NAME, UNKNOWN
from models.manifest import Manifest
from models.postprocess import connected_parts, decide
from models.predict import grid_scores, network_input, predict
from models.scorer import Scorer
from training.calibration.copies import Copy
from training.metrics import dice, judgeable, mask_of

# The part of a marked lesion that must lie in a true one of its kind to count as real.
REAL_OVERLAP = 0.1


@dataclass(frozen=True)
class Observation:
    """One structure, or one lesion, that a model marked in a copy.

    Attributes:
        case, copy, structure: names.
        evidence: what the model has for it.
        outcome: of an organ its Dice (with its lesions), of a lesion whether it is real, 0 or 1.
        true_ml: volume of the true structure; of a lesion its own marked volume.
        stranger: the copy holds none of the organs.
        made: a lesion in the copy is, or all of it.
    """

    case: str
    copy: str
    structure: str
    evidence: Evidence
    outcome: float
    true_ml: float
    stranger: bool = False
    made: bool = False


@dataclass(frozen=True, eq=False)
class Voxels:
    """Labelled voxels of a case: scores (C, N), labels (N), whether each label is right (N)."""

    case: str
    scores: NDArray[np.float32]
    labels: NDArray[np.uint8]
    right: NDArray[np.bool_]


def observe(
    case: str, copy: Copy, manifest: Manifest, scorer: Scorer, finder: Scorer | None = None
) -> Iterator[Observation]:
    """What the model marks in a copy, of the structures that its labels can judge."""
    found = predict(copy.image, manifest, scorer, keep_doubtful=True, finder=finder)
    truth = _on(copy.truth, found.labels.geometry)
    labels = judgeable(found.labels.array, truth)
    for name, finding in found.findings.items():
        if name not in copy.annotated or finding.evidence is None:
            continue
        if is_lesion(BY_NAME[name]):
            for lesion, real in _with_truth(finding.lesions, found.labels, name, truth):
                volume = lesion.evidence.volume_ml
                yield Observation(
                    case, copy.name, name, lesion.evidence, real, volume, made=copy.made
                )
        else:
            true = mask_of(truth, name)
            outcome = dice(mask_of(labels, name), true) if true.any() else 0.0
            volume = float(np.count_nonzero(true) * found.labels.geometry.voxel_ml)
            yield Observation(
                case,
                copy.name,
                name,
                finding.evidence,
                outcome,
                volume,
                copy.stranger,
                copy.made,
            )


def sample(
    case: str,
    copy: Copy,
    manifest: Manifest,
    scorer: Scorer,
    count: int,
    rng: np.random.Generator,
) -> Voxels:
    """At most ``count`` of the voxels that the network labels as an annotated structure."""
    image, grid = network_input(copy.image, manifest)
    truth = _on(copy.truth, grid)
    judged = [BY_NAME[name].value for name in manifest.outputs if name in copy.annotated]
    scores, labels, right = [], [], []
    for where, values, weight in grid_scores(image, manifest, scorer, _untold):
        decided = decide(values, manifest)
        inside = np.isin(decided, judged) & (truth[where] != UNKNOWN)
        factor = np.broadcast_to(weight, decided.shape)[inside]
        scores.append(np.stack([channel[inside] for channel in values]) / factor)
        labels.append(decided[inside])
        right.append(_right(decided[inside], truth[where][inside]))
    chosen = rng.permutation(sum(map(len, labels)))[:count]
    return Voxels(
        case,
        np.asarray(np.concatenate(scores, axis=1)[:, chosen], np.float32),
        np.concatenate(labels)[chosen],
        np.concatenate(right)[chosen],
    )


def _right(labels: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each label is the true one, or an organ's where one of its lesions is."""
    organ = np.arange(256)
    for structure in BY_NAME.values():
        if structure.parent is not None:
            organ[structure.value] = BY_NAME[structure.parent].value
    return np.asarray((labels == truth) | (labels == organ[truth]))


def _on(truth: Volume, grid: Geometry) -> NDArray[np.uint8]:
    """Labels (Z, Y, X) on another grid."""
    if truth.geometry.close_to(grid):
        return np.asarray(truth.array, np.uint8)
    return np.asarray(resample_nearest(to_canonical(truth), grid).array, np.uint8)


def _with_truth(
    lesions: tuple[Lesion, ...], labels: Volume, name: str, truth: NDArray[np.uint8]
) -> Iterator[tuple[Lesion, float]]:
    """Each lesion with 1 where it is real, else 0: by the part of the label map nearest to it.

    Only what of it lies where the truth is known counts; of a lesion without any nothing is said.
    """
    parts = connected_parts(labels.array == BY_NAME[name].value)
    places = np.argwhere(parts)
    if not len(places):
        return
    owner = parts[tuple(places.T)] - 1
    counts = np.bincount(owner)
    middles = np.stack([np.bincount(owner, axis) / counts for axis in places.T], axis=1)
    true = truth[tuple(places.T)]
    known = np.bincount(owner, true != UNKNOWN)
    right = np.bincount(owner, true == BY_NAME[name].value)
    world = labels.geometry.to_world(middles)
    for lesion in lesions:
        nearest = np.argmin(np.linalg.norm(world - np.array(lesion.centre_mm), axis=1))
        if known[nearest]:
            yield lesion, float(right[nearest] >= REAL_OVERLAP * known[nearest])


def _untold(_step: str, _part: float) -> None:
    """Nobody waits for the progress."""
