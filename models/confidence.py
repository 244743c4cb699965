"""How sure a model is of what it found: of every voxel, of every organ, of every lesion.

Scores become probabilities at a temperature (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017, section 4.2). The mean probability over a structure's voxels and its volume
are the evidence for it. What confidence that is worth was fitted on cases that the model had not
seen, and is kept in its manifest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.geometry import Geometry
from models.labels import BY_NAME, Structure
from models.manifest import Manifest, Trust
from models.postprocess import bounding_box, connected_parts, label_values

# Probabilities are kept as so many parts of 1, a byte a voxel.
STEPS = 255
# A mean probability is not taken to be nearer to 0 or 1 than this: the rest is rounding.
_ROUNDING = 0.5 / STEPS
# SNOMED CT's kinds of lesion: neoplasm, cyst.
_LESIONS = frozenset({"108369006", "367643001"})


@dataclass(frozen=True)
class Evidence:
    """What a structure, or a single lesion, is judged by.

    Attributes:
        probability: mean over its own voxels, at the manifest's temperature.
        volume_ml: on the model's grid; an organ's with its lesions.
        cut: whether it reaches the edge of the image, beyond which there may be more.
    """

    probability: float
    volume_ml: float
    cut: bool = False


@dataclass(frozen=True)
class Lesion:
    """One connected lesion.

    Attributes:
        evidence: of it alone.
        centre_mm: of mass, LPS (x, y, z).
        confidence: the probability that there is one; ``None`` where that is not calibrated.
        kept: whether it is in the label map.
    """

    evidence: Evidence
    centre_mm: tuple[float, float, float]
    confidence: float | None = None
    kept: bool = True


@dataclass(frozen=True)
class Finding:
    """What a model says of one structure.

    Attributes:
        evidence: of all that was found of it; ``None`` where that is nothing.
        confidence: of an organ the Dice that is to be expected, of lesions the probability that
            the likeliest one is real; ``None`` where nothing was found or it is not calibrated.
        kept: whether any of it is in the label map.
        lesions: one by one, the likeliest first; empty for what is no lesion.
    """

    evidence: Evidence | None = None
    confidence: float | None = None
    kept: bool = False
    lesions: tuple[Lesion, ...] = ()


def is_lesion(structure: Structure) -> bool:
    """Whether a structure is a kind of lesion, of which there may be none or several."""
    return structure.snomed in _LESIONS


def sureness(
    scores: NDArray[Any],
    weight: NDArray[np.float32],
    labels: NDArray[np.uint8],
    manifest: Manifest,
) -> NDArray[np.uint8]:
    """The probability that each label is right, in parts of 255 (Z, Y, X); 0 without a label.

    Only what is labelled is computed, a few voxels in a hundred.

    Args:
        scores: (C, Z, Y, X); they hold ``weight`` as a factor.
        weight: broadcasts to (Z, Y, X).
        labels: (Z, Y, X), of ``models.postprocess.decide`` for these scores.
        manifest: of the model.
    """
    inside = labels > 0
    values = np.stack([channel[inside] for channel in scores])
    values /= np.broadcast_to(weight, labels.shape)[inside]
    right = probability(values, labels[inside], manifest, manifest.calibration.temperature)
    found = np.zeros(labels.shape, np.uint8)
    found[inside] = np.rint(right * STEPS)
    return found


def probability(
    scores: NDArray[np.float32],
    labels: NDArray[np.uint8],
    manifest: Manifest,
    temperature: float,
) -> NDArray[np.float32]:
    """The probability (N) that each label (N) is right, by its scores (C, N).

    The label of an organ is right where one of its lesions is there too: its mask holds them.
    Channels of a sigmoid model know nothing of each other; each has the label's own alone.
    """
    table = label_values(manifest)
    channel = np.zeros(256, np.intp)
    channel[table] = np.arange(len(table))
    winner = channel[labels]
    if manifest.activation == "sigmoid":
        own = np.take_along_axis(scores, winner[None], axis=0)[0] / np.float32(temperature)
        return np.asarray(np.exp(-np.logaddexp(0, -own)), np.float32)
    parts = np.exp((scores - scores.max(axis=0)) / np.float32(temperature))
    right = np.zeros(len(labels), np.float32)
    for row in np.unique(winner):
        here = winner == row
        right[here] = parts[_family(manifest, int(row))][:, here].sum(axis=0)
    return np.asarray(right / parts.sum(axis=0), np.float32)


def judge(
    labels: NDArray[np.uint8],
    sure: NDArray[np.uint8],
    geometry: Geometry,
    manifest: Manifest,
    keep_doubtful: bool = False,
) -> tuple[NDArray[np.uint8], dict[str, Finding]]:
    """What is believed of a label map, and how much.

    An organ of less confidence than the manifest asks for is left out, its lesions with it. A
    single lesion of too little confidence becomes its organ, or background where it touches none.

    Args:
        labels: (Z, Y, X), cleaned.
        sure: of :func:`sureness`.
        geometry: of both.
        manifest: of the model.
        keep_doubtful: leave nothing out.

    Returns:
        The label map that is left, and a finding for each of the model's structures.
    """
    trust = {entry.structure: entry for entry in manifest.calibration.trust}
    found: dict[str, Finding] = {}
    lost: dict[str, NDArray[np.intp]] = {}
    for name, evidence in _evidence(labels, sure, geometry, manifest).items():
        if evidence is not None and is_lesion(BY_NAME[name]):
            lesions, voxels, owner = _lesions(labels == BY_NAME[name].value, sure, geometry)
            judged = [_judged(lesion, trust.get(name), keep_doubtful) for lesion in lesions]
            found[name] = _of_lesions(evidence, judged)
            lost[name] = voxels[np.array([not lesion.kept for lesion in judged])[owner]]
        else:
            found[name] = _of_organ(evidence, trust.get(name), keep_doubtful)
    found = {name: _with_its_organ(BY_NAME[name], found) for name in found}
    return _without_doubtful(labels, found, lost), found


def confidence_of(evidence: Evidence, trust: Trust) -> float:
    """What evidence is worth, 0 to 1."""
    sure, shortfall = features(evidence, trust.usual_ml)
    worth = trust.offset + trust.certainty * sure + trust.size * shortfall
    # tanh, because exp overflows.
    return 0.5 + 0.5 * math.tanh(worth / 2)


def features(evidence: Evidence, usual_ml: float) -> tuple[float, float]:
    """The logit of the probability, and by how much the volume falls short (ln, at most 0).

    What the image cuts off does not fall short.
    """
    p = min(max(evidence.probability, _ROUNDING), 1 - _ROUNDING)
    shortfall = 0.0 if evidence.cut else min(0.0, math.log(evidence.volume_ml / usual_ml))
    return math.log(p / (1 - p)), shortfall


def _family(manifest: Manifest, channel: int) -> list[int]:
    """The channel of a structure, and those of what lies in it."""
    name = manifest.outputs[channel - 1]
    return [c for c, n in enumerate(manifest.outputs, 1) if n == name or BY_NAME[n].parent == name]


def _evidence(
    labels: NDArray[np.uint8], sure: NDArray[np.uint8], geometry: Geometry, manifest: Manifest
) -> dict[str, Evidence | None]:
    """For each of the model's structures; an organ with lesions alone is none."""
    inside = labels > 0
    values = labels[inside]
    counts = np.bincount(values, minlength=256)
    sums = np.bincount(values, sure[inside], minlength=256)
    found: dict[str, Evidence | None] = dict.fromkeys(manifest.outputs)
    for name in manifest.outputs:
        own = BY_NAME[name].value
        if counts[own]:
            whole = _whole(BY_NAME[name])
            volume = float(counts[whole].sum() * geometry.voxel_ml)
            mean = float(sums[own] / counts[own] / STEPS)
            found[name] = Evidence(mean, volume, _reaches_edge(labels, whole))
    return found


def _reaches_edge(labels: NDArray[np.uint8], values: list[int]) -> bool:
    """Whether one of the values is in the first or last plane of an axis."""
    planes = (labels.take(end, axis) for axis in range(3) for end in (0, -1))
    return any(bool(np.isin(plane, values).any()) for plane in planes)


def _lesions(
    mask: NDArray[np.bool_], sure: NDArray[np.uint8], geometry: Geometry
) -> tuple[list[Lesion], NDArray[np.intp], NDArray[np.intp]]:
    """The lesions of a kind that is there, its voxels as flat indices, and whose each is."""
    box = bounding_box(mask)
    assert box is not None
    parts = connected_parts(mask[box])
    places = np.argwhere(parts)
    owner = parts[tuple(places.T)].astype(np.intp) - 1
    places += [side.start for side in box]
    counts = np.bincount(owner)
    at_edge = ((places == 0) | (places == np.array(mask.shape) - 1)).any(axis=1)
    cut = np.bincount(owner, at_edge) > 0
    means = np.bincount(owner, sure[tuple(places.T)]) / counts / STEPS
    middles = np.stack([np.bincount(owner, axis) / counts for axis in places.T], axis=1)
    lesions = [
        Lesion(Evidence(float(mean), float(count * geometry.voxel_ml), bool(at)), (x, y, z))
        for mean, count, at, (x, y, z) in zip(
            means, counts, cut, geometry.to_world(middles).tolist(), strict=True
        )
    ]
    voxels = np.asarray(np.ravel_multi_index(tuple(places.T), mask.shape), np.intp)
    return lesions, voxels, owner


def _judged(lesion: Lesion, trust: Trust | None, keep_doubtful: bool) -> Lesion:
    if trust is None:
        return lesion
    confidence = confidence_of(lesion.evidence, trust)
    return replace(lesion, confidence=confidence, kept=keep_doubtful or confidence >= trust.least)


def _of_lesions(evidence: Evidence, lesions: list[Lesion]) -> Finding:
    ranked = sorted(lesions, key=lambda one: (one.confidence or 0, one.evidence.volume_ml))[::-1]
    kept = any(lesion.kept for lesion in lesions)
    return Finding(evidence, ranked[0].confidence, kept, tuple(ranked))


def _of_organ(evidence: Evidence | None, trust: Trust | None, keep_doubtful: bool) -> Finding:
    if evidence is None or trust is None:
        return Finding(evidence, kept=evidence is not None)
    confidence = confidence_of(evidence, trust)
    return Finding(evidence, confidence, keep_doubtful or confidence >= trust.least)


def _with_its_organ(structure: Structure, found: Mapping[str, Finding]) -> Finding:
    """The finding, left out where the organ it lies in is."""
    own, organ = found[structure.name], found.get(structure.parent or "")
    if organ is None or organ.evidence is None or organ.kept:
        return own
    lesions = tuple(replace(lesion, kept=False) for lesion in own.lesions)
    return replace(own, kept=False, lesions=lesions)


def _without_doubtful(
    labels: NDArray[np.uint8], found: Mapping[str, Finding], lost: Mapping[str, NDArray[np.intp]]
) -> NDArray[np.uint8]:
    """The label map without lost lesions (flat indices of voxels) and structures that are not kept.

    A lost lesion becomes its organ where the two touch: no hole is left.
    """
    gone = [
        value
        for name, finding in found.items()
        if finding.evidence is not None and not finding.kept and not is_lesion(BY_NAME[name])
        for value in _whole(BY_NAME[name])
    ]
    lost = {name: voxels for name, voxels in lost.items() if voxels.size}
    if not gone and not lost:
        return labels
    result = labels.copy()
    for name, voxels in lost.items():
        organ = BY_NAME[BY_NAME[name].parent or name]
        at_organ = _parts_with(labels, organ).ravel()[voxels]
        result.flat[voxels] = np.where(at_organ, np.uint8(organ.value), np.uint8(0))
    result[np.isin(result, gone)] = 0
    return result


def _parts_with(labels: NDArray[np.uint8], organ: Structure) -> NDArray[np.bool_]:
    """The parts (Z, Y, X) of an organ with all that lies in it that hold some of the organ."""
    found = np.isin(labels, _whole(organ))
    box = bounding_box(found)
    if box is not None:
        parts = connected_parts(found[box])
        held = np.unique(parts[labels[box] == organ.value])
        found[box] = np.isin(parts, held[held > 0])
    return found


def _whole(organ: Structure) -> list[int]:
    """The values of an organ and of what lies in it."""
    return [organ.value, *(s.value for s in BY_NAME.values() if s.parent == organ.name)]
