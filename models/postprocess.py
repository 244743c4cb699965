"""From scores to a clean label map on the model's grid."""

from __future__ import annotations

from typing import Any

import cc3d
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
    box = bounding_box(result > 0)
    if box is None:
        return result
    # What is empty around all structures costs nothing; where the image's middle is stays known.
    inside, middle = result[box], labels.shape[2] // 2 - box[2].start
    for step in steps:
        value = structure(step.structure).value
        own = inside == value
        # An organ's parts are counted and measured with its lesions' voxels: a tumor across a
        # kidney must not make two kidneys of it. The lesions themselves have their own steps.
        whole = own.copy()
        for lesion in (s.value for s in STRUCTURES if s.parent == step.structure):
            whole |= inside == lesion
        inside[_dropped(own, whole, step, voxel_ml, middle)] = 0
        if step.attached:
            organ = structure(structure(step.structure).parent or step.structure).value
            inside[_apart(inside == value, inside == organ)] = 0
    return result


def _apart(lesions: NDArray[np.bool_], organ: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of the lesions' components that touch no voxel of the organ."""
    tight = bounding_box(lesions)
    apart = lesions.copy()
    if tight is None:
        return apart
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in tight)
    parts = connected_parts(lesions[box])
    near = sitk.GetImageFromArray(organ[box].astype(np.uint8))
    grown = sitk.BinaryDilate(near, (1, 1, 1), sitk.sitkBox)
    free = np.ones(int(parts.max()) + 1, bool)
    free[0] = False
    free[parts[sitk.GetArrayViewFromImage(grown) > 0]] = False
    apart[box] = free[parts]
    return apart


def _dropped(
    own: NDArray[np.bool_],
    whole: NDArray[np.bool_],
    step: Cleanup,
    voxel_ml: float,
    middle: int,
) -> NDArray[np.bool_]:
    """The voxels of ``own`` in the components of ``whole`` that a step does not keep.

    ``middle`` is the column that parts the patient's sides.
    """
    dropped = own.copy()
    box = bounding_box(whole)
    if box is None:
        return dropped
    own, parts = own[box], connected_parts(whole[box])
    sizes = np.bincount(parts.ravel())
    # A lesion that touches no voxel of the organ is none of its parts.
    held = np.bincount(parts[own], minlength=len(sizes)) > 0
    smallest = max(1, int(np.ceil(step.min_ml / voxel_ml)))
    kept = np.flatnonzero(held & (sizes >= smallest))
    kept = kept[np.argsort(-sizes[kept], kind="stable")]
    if step.paired and len(kept):
        kept = _one_a_side(parts, sizes, kept, middle - box[2].start)
    if len(kept):
        kept = kept[sizes[kept] >= step.least_part * sizes[kept[0]]]
    if step.keep_largest:
        kept = kept[: step.keep_largest]
    gone = np.ones(len(sizes), bool)
    gone[kept] = False
    dropped[box] &= gone[parts]
    return dropped


def connected_parts(mask: NDArray[np.bool_]) -> NDArray[np.integer[Any]]:
    """The connected parts of a mask (Z, Y, X), numbered from 1; voxels touch at corners too."""
    # SimpleITK takes ten times as long; cc3d's `binary_image` fails over a single row.
    found: NDArray[np.integer[Any]] = cc3d.connected_components(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=26
    )
    return found


def seeded_parts(
    mask: NDArray[np.bool_], seeds: NDArray[np.bool_], least: float
) -> NDArray[np.bool_]:
    """The connected parts of a mask (Z, Y, X) that hold a seed and have so many voxels."""
    parts = connected_parts(mask)
    large = np.bincount(parts.ravel()) >= least
    seeded = np.zeros_like(large)
    seeded[parts[mask & seeds]] = True
    kept: NDArray[np.bool_] = (large & seeded)[parts]
    return kept


def _one_a_side(
    parts: NDArray[Any], sizes: NDArray[Any], kept: NDArray[Any], middle: int
) -> NDArray[Any]:
    """Of the kept components, the largest first, each side's largest in the same order."""
    right = np.bincount(parts[..., : max(middle, 0)].ravel(), minlength=len(sizes))[kept]
    share = right / sizes[kept]
    sides = (np.flatnonzero(share > _ONE_SIDED), np.flatnonzero(share < 1 - _ONE_SIDED))
    found = kept[np.sort(np.concatenate([side[:1] for side in sides]))]
    # A horseshoe kidney is one component across the middle.
    return found if found.size else kept[:1]


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The smallest box (Z, Y, X) that holds all of a mask; ``None`` for an empty one."""
    deep = np.flatnonzero(mask.any(axis=(1, 2)))
    if not deep.size:
        return None
    # What lies along the first axis taken together serves the other two.
    plane = np.asarray(mask[deep[0] : deep[-1] + 1].any(axis=0))
    filled = (deep, np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0)))
    z, y, x = (slice(int(f[0]), int(f[-1]) + 1) for f in filled)
    return z, y, x
