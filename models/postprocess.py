"""From scores to a clean label map on the model's grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from imaging.threads import spread
from models.labels import STRUCTURES, structure
from models.manifest import Cleanup, Manifest

# The part of a component that lies on one side when the component counts as of that side.
_ONE_SIDED = 0.75


def label_values(manifest: Manifest) -> NDArray[np.uint8]:
    """Label value of each channel of the network's output (0 for the background)."""
    found = [structure(name).value for name in manifest.outputs]
    return np.array(([0] if manifest.activation == "softmax" else []) + found, np.uint8)


def decide(scores: NDArray[Any], manifest: Manifest) -> NDArray[np.uint8]:
    """Label map (Z, Y, X) of scores (C, Z, Y, X).

    Softmax models: the greatest channel; it is the same for logits and probabilities. Sigmoid
    models give logits: a channel over 0 (probability 0.5) is in, and the last of several wins,
    so a tumor's channel follows its organ's.
    """
    table = label_values(manifest)
    if manifest.activation == "softmax":
        return _greatest(scores, table)
    labels = np.zeros(scores.shape[1:], np.uint8)
    for channel, value in enumerate(table):
        labels[scores[channel] > 0] = value
    return labels


def _greatest(scores: NDArray[Any], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The label of the greatest channel, the first of equals; a slice at a time, in cache.

    numpy's argmax across the first axis takes six times as long.
    """
    labels = np.empty(scores.shape[1:], np.uint8)

    def decide_slices(run: range) -> None:
        for z in run:
            best = scores[0, z].copy()
            winner = np.zeros(best.shape, np.uint8)
            for channel in range(1, len(scores)):
                wins = (scores[channel, z] > best).view(np.uint8)
                np.maximum(best, scores[channel, z], out=best)
                wins *= np.uint8(channel)
                # Channels ascend, so the greatest winner is the last one.
                np.maximum(winner, wins, out=winner)
            labels[z] = table[winner]

    spread(decide_slices, len(labels))
    return labels


def clean(
    labels: NDArray[np.uint8], steps: tuple[Cleanup, ...], voxel_ml: float
) -> NDArray[np.uint8]:
    """Apply the manifest's postprocessing to a label map (Z, Y, X); returns a new one.

    Args:
        labels: uint8 label map.
        steps: what to do, in order; an organ's components are those of the organ with its lesions.
        voxel_ml: volume of a voxel in millilitres.
    """
    result = labels.copy()
    for step in steps:
        value = structure(step.structure).value
        own = result == value
        # An organ's parts are counted and measured with its lesions' voxels: a tumor across a
        # kidney must not make two kidneys of it. The lesions themselves have their own steps.
        lesions = [s.value for s in STRUCTURES if s.parent == step.structure]
        whole = own | np.isin(result, lesions) if lesions else own
        result[_dropped(own, whole, step, voxel_ml)] = 0
        if step.attached:
            organ = structure(structure(step.structure).parent or step.structure).value
            result[_apart(result == value, result == organ)] = 0
    return result


def _apart(lesions: NDArray[np.bool_], organ: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of the lesions' components that touch no voxel of the organ."""
    tight = bounding_box(lesions)
    apart = lesions.copy()
    if tight is None:
        return apart
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in tight)
    parts = sitk.GetArrayFromImage(connected_parts(lesions[box]))
    near = sitk.GetImageFromArray(organ[box].astype(np.uint8))
    grown = sitk.BinaryDilate(near, (1, 1, 1), sitk.sitkBox)
    touching = np.unique(parts[sitk.GetArrayViewFromImage(grown) > 0])
    apart[box] = (parts > 0) & ~np.isin(parts, touching)
    return apart


def _dropped(
    own: NDArray[np.bool_], whole: NDArray[np.bool_], step: Cleanup, voxel_ml: float
) -> NDArray[np.bool_]:
    """The voxels of ``own`` in the components of ``whole`` that a step does not keep."""
    dropped = own.copy()
    box = bounding_box(whole)
    if box is None:
        return dropped
    own, whole = own[box], whole[box]
    parts = connected_parts(whole)
    smallest = max(1, int(np.ceil(step.min_ml / voxel_ml)))
    # Relabelled by size: component 1 is the largest, 0 what is too small.
    by_size = sitk.GetArrayFromImage(sitk.RelabelComponent(parts, smallest, True))
    ranked = by_size[own]
    # A lesion that touches no voxel of the organ is none of its parts.
    kept = np.unique(ranked[ranked > 0])
    if step.paired and len(kept):
        kept = _one_a_side(by_size, kept, dropped.shape[2] // 2 - box[2].start)
    if step.keep_largest:
        kept = kept[: step.keep_largest]
    dropped[box][own] = ~np.isin(ranked, kept)
    return dropped


def connected_parts(mask: NDArray[np.bool_]) -> sitk.Image:
    """The connected parts of a mask (Z, Y, X), numbered from 1; voxels touch at corners too."""
    return sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True)


def seeded_parts(
    mask: NDArray[np.bool_], seeds: NDArray[np.bool_], least: float
) -> NDArray[np.bool_]:
    """The connected parts of a mask (Z, Y, X) that hold a seed and have so many voxels."""
    parts = sitk.GetArrayFromImage(connected_parts(mask))
    large = np.bincount(parts.ravel()) >= least
    seeded = np.zeros_like(large)
    seeded[parts[mask & seeds]] = True
    kept: NDArray[np.bool_] = (large & seeded)[parts]
    return kept


def _one_a_side(parts: NDArray[Any], kept: NDArray[Any], middle: int) -> NDArray[Any]:
    """Of the kept components, numbered by size, each side's largest; sorted."""
    count = int(parts.max()) + 1
    right = np.bincount(parts[..., : max(middle, 0)].ravel(), minlength=count)[kept]
    share = right / np.bincount(parts.ravel(), minlength=count)[kept]
    sides = (kept[share > _ONE_SIDED], kept[share < 1 - _ONE_SIDED])
    found = np.sort(np.concatenate([side[:1] for side in sides]))
    # A horseshoe kidney is one component across the middle.
    return found if found.size else kept[:1]


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The smallest box (Z, Y, X) that holds all of a mask; ``None`` for an empty one."""
    filled = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not filled[0].size:
        return None
    z, y, x = (slice(int(f[0]), int(f[-1]) + 1) for f in filled)
    return z, y, x
