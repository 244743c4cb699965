"""One real lesion planted where it sat in its own organ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import BadParameter
from models.labels import structure
from training.lesions.grow import (
    Boxed,
    Site,
    Voxel,
    box_around,
    check,
    connected,
    grow,
    widened,
)
from training.lesions.kinds import GROWTH, Kind, Lesion, organ_of
from training.lesions.tissue import Mask, Spacing
from training.planting.forms import SCALE, RealForm
from training.planting.pancreas import draw_upstream
from training.planting.place import place
from training.planting.shapes import Shape, Shapes

# Lesions that do not fit are put back; after so many nothing grows.
_TRIES, _SMALLER = 8, 0.88


def plant_real(
    volume_hu: NDArray[Any],
    labels: NDArray[np.uint8],
    spacing: Spacing,
    kind: Kind,
    rng: np.random.Generator,
    shapes: Shapes,
    diameter_mm: float | None = None,
) -> tuple[NDArray[Any], NDArray[np.uint8], Lesion | None]:
    """Grow a real lesion in its organ, and into the fat around it.

    Args:
        volume_hu: (Z, Y, X) HU, int16 or float32; axes in (S, P, L) order.
        labels: (Z, Y, X) values of ``models.labels``. Other labelled organs are left alone.
        spacing: (z, y, x) mm.
        kind: which lesion.
        rng: source of the choice, tilt, size and texture.
        shapes: the library.
        diameter_mm: of this size; where ``None``, 0.8 to 1.25 times that of the lesion.

    Returns:
        New HU (same type) and new labels; and the lesion, or ``None`` with the inputs unchanged
        where the organ is absent or has no room.

    Raises:
        BadParameter: a kind that the library does not hold, or a diameter or spacing that is not
            positive.
        BadShape: arrays of different shapes.
    """
    check(volume_hu, labels, spacing, kind, diameter_mm)
    known = shapes.of(kind)
    if not known:
        raise BadParameter(
            f"The {shapes.part} part of the shapes holds no {kind}; name another folder or kind."
        )
    site = _site(volume_hu, labels, spacing, kind, rng, diameter_mm, known)
    if site is None:
        return volume_hu, labels, None
    hu, marked, lesion = grow(volume_hu, labels, spacing, kind, rng, site)
    if lesion is not None and kind == "pancreas_tumor":
        draw_upstream(hu, marked, spacing, lesion.centre, rng)
    return hu, marked, lesion


def _site(
    volume_hu: NDArray[Any],
    labels: NDArray[np.uint8],
    spacing: Spacing,
    kind: Kind,
    rng: np.random.Generator,
    diameter_mm: float | None,
    known: Sequence[Shape],
) -> Site | None:
    """A real lesion where it sat in its own organ; another one where it has no room."""
    whole = labels == structure(organ_of(kind)).value
    inside = np.flatnonzero(whole)
    if not len(inside):
        return None
    z, y, x = np.unravel_index(inside[rng.integers(len(inside))], labels.shape)
    organ, box = _part(whole, (int(z), int(y), int(x)))
    most = GROWTH[kind].largest * np.count_nonzero(organ) * float(np.prod(spacing)) / 1000
    shape, scale = _chosen(known, diameter_mm, rng)
    for attempt in range(_TRIES):
        if attempt:
            # Another of its size, a little smaller each time: sizes stay near the real ones'.
            size = (diameter_mm or shape.diameter_mm) * _SMALLER
            shape, scale = _chosen(known, size, rng)
        if shape.volume_ml * scale[0] ** 3 > most:
            continue
        margin = 0.7 * float(np.linalg.norm(np.multiply(shape.size, shape.spacing)))
        wide = widened(box, labels.shape, spacing, margin)
        own = np.zeros([b.stop - b.start for b in wide], np.bool_)
        own[
            tuple(
                slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wide, strict=True)
            )
        ] = organ
        found = place(shape, volume_hu[wide], labels[wide], own, spacing, rng, scale)
        if found is not None:
            return _placed(found, wide, own, labels.shape, spacing)
    return None


def _placed(
    found: tuple[RealForm, Voxel],
    wide: Boxed,
    organ: Mask,
    shape: tuple[int, ...],
    spacing: Spacing,
) -> Site:
    """The site of a form whose centre is told in the organ's box."""
    form, at = found
    z, y, x = (a + w.start for a, w in zip(at, wide, strict=True))
    box = box_around(shape, spacing, (z, y, x), form.reach_mm + 3 * max(spacing))
    own = np.zeros([b.stop - b.start for b in box], np.bool_)
    low = [max(b.start, w.start) for b, w in zip(box, wide, strict=True)]
    high = [max(s, min(b.stop, w.stop)) for s, b, w in zip(low, box, wide, strict=True)]
    here = tuple(slice(s - b.start, e - b.start) for s, e, b in zip(low, high, box, strict=True))
    there = tuple(slice(s - w.start, e - w.start) for s, e, w in zip(low, high, wide, strict=True))
    own[here] = organ[there]
    return Site(form, (z, y, x), box, own, 0.0)


def _chosen(
    known: Sequence[Shape], diameter_mm: float | None, rng: np.random.Generator
) -> tuple[Shape, tuple[float, float]]:
    """A shape, and the range of its size over the real one's."""
    if diameter_mm is None:
        return known[int(rng.integers(len(known)))], SCALE
    off = np.abs(np.log([s.diameter_mm / diameter_mm for s in known]))
    like = np.flatnonzero(off <= max(float(np.log(SCALE[1])), float(off.min())))
    shape = known[int(like[rng.integers(len(like))])]
    return shape, (diameter_mm / shape.diameter_mm,) * 2


def _part(whole: Mask, seed: Voxel) -> tuple[Mask, Boxed]:
    """The part of an organ that hangs together with a voxel, in its box, and that box."""
    rough = _bounds(whole)
    part = connected(whole[rough], seed, rough)
    fine = _bounds(part)
    box = tuple(
        slice(r.start + f.start, r.start + f.stop) for r, f in zip(rough, fine, strict=True)
    )
    return part[fine], box


def _bounds(mask: Mask) -> Boxed:
    """The box of a mask that is not empty."""
    along = [np.asarray(mask.any(axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    ends = [np.flatnonzero(a)[[0, -1]] for a in along]
    return tuple(slice(int(e[0]), int(e[1]) + 1) for e in ends)
