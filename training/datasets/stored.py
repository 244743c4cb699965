"""Phantoms' labels as a layout stores them: in its values, split by its sides and lobes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from imaging.geometry import Geometry
from imaging.volume import Volume
from models.labels import BY_NAME
from training.datasets.names import structures

Mask = NDArray[np.bool_]


def annotated(names: Mapping[int, str], title: str = "") -> tuple[str, ...]:
    """The structures that a layout's label names mean, each once."""
    return tuple(dict.fromkeys(structures(names, title).values()))


def stored_map(labels: Volume, names: Mapping[int, str], title: str = "") -> Volume:
    """A label map in a layout's values.

    Args:
        labels: (Z, Y, X) values of ``models.labels``.
        names, title: label value to published name, as in :func:`names.structures`.
    """
    meant = structures(names, title)
    stored = np.zeros(labels.array.shape, np.uint8)
    for name in annotated(names, title):
        values = [value for value, found in meant.items() if found == name]
        parts = divided(mask_of(labels, name), labels.geometry, [names[v] for v in values])
        for value, part in zip(values, parts, strict=True):
            stored[part] = value
    return labels.with_array(stored)


def mask_of(labels: Volume, name: str) -> Mask:
    """The voxels (Z, Y, X) of one structure."""
    return np.asarray(labels.array == BY_NAME[name].value)


def divided(mask: Mask, grid: Geometry, names: Sequence[str]) -> list[Mask]:
    """One mask for each of a structure's published names, such as its sides and lobes.

    Left is where LPS x is positive. Parts of one side lie from top to bottom in the order of
    their names, each with as many voxels: lobes only in name.
    """
    voxels = np.argwhere(mask)
    voxels = voxels[np.argsort(-grid.to_world(voxels)[:, 2], kind="stable")]
    left = grid.to_world(voxels)[:, 0] > 0
    parts = [np.zeros(mask.shape, np.bool_) for _ in names]
    sides = ["left" if "left" in n else "right" if "right" in n else "" for n in names]
    for side, here in (("left", left), ("right", ~left), ("", left | ~left)):
        own = [part for part, of in zip(parts, sides, strict=True) if of == side]
        if own:
            for part, chosen in zip(own, np.array_split(voxels[here], len(own)), strict=True):
                part[tuple(chosen.T)] = True
    return parts
