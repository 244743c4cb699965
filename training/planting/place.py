"""Where a real lesion goes in another patient's organ: where it sat in its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import DataError
from models.labels import BY_NAME
from training.lesions.kinds import organ_of
from training.lesions.tissue import Mask, Spacing, room
from training.planting.forms import SCALE, RealForm
from training.planting.hull import Hull, Points, outwards
from training.planting.shapes import SOURCES, Shape

# Places are looked for on a thinned-out grid of about this step.
_STEP_MM = 2.0
_CANDIDATES, _TRIED = 1500, 48
# Of the lesion's volume so much must have room, and lie in its organ, at least.
_ROOM, _CONTACT = {True: 0.85, False: 0.7}, {True: 0.03, False: 0.2}
# How much a place counts along (S, P, L), in half extents of the organ's box: the head of a
# pancreas is at its right end, whatever height it has there.
_PAIRED_WEIGHTS, _SINGLE_WEIGHTS = (1.0, 1.0, 1.0), (0.2, 0.1, 2.0)
_PAIRED = {kind: s.paired for s in SOURCES.values() for _, kind in s.lesions}
_JITTER = 0.15


def place(
    shape: Shape,
    hu: NDArray[Any],
    labels: NDArray[np.uint8],
    organ: Mask,
    spacing: Spacing,
    rng: np.random.Generator,
    scale: tuple[float, float] = SCALE,
) -> tuple[RealForm, tuple[int, int, int]] | None:
    """Turn a lesion and find its centre.

    Many places are scored by how far they are from the lesion's own, how much of it has room
    there, and how far it bulges out; the best one is taken.

    Args:
        shape: the lesion.
        hu, labels, organ: (Z, Y, X) in (S, P, L) order, of a box around the organ; the organ is
            one kidney of two.
        spacing: (z, y, x) mm.
        rng: source of tilt, size and a little of the place.
        scale: range of its size over the real one's.

    Returns:
        The form, and its centre's voxel (z, y, x); ``None`` where it has no room.
    """
    thin = tuple(max(1, int(_STEP_MM / s)) for s in spacing)
    few = tuple(slice(None, None, t) for t in thin)
    step = (spacing[0] * thin[0], spacing[1] * thin[1], spacing[2] * thin[2])
    part = organ[few]
    try:
        hull = Hull.around(part, step)
    except DataError:
        return None
    form, wanted = _turned(shape, labels[few], part, step, hull, rng, scale)
    free = room(hu[few].astype(np.float32), labels[few], part, step)
    found = _Search(form, hull, part, free, step).best(np.asarray(wanted), rng)
    if found is None:
        return None
    z, y, x = np.minimum(np.round(found / spacing), np.asarray(organ.shape) - 1).astype(int)
    return form, (int(z), int(y), int(x))


def _turned(
    shape: Shape,
    labels: NDArray[np.uint8],
    organ: Mask,
    step: Spacing,
    hull: Hull,
    rng: np.random.Generator,
    scale: tuple[float, float],
) -> tuple[RealForm, tuple[float, float, float]]:
    """The form as it will lie, and the place it is wanted at in the organ's box."""
    z, y, x = shape.place
    if not _PAIRED[shape.kind]:
        return RealForm.of(shape, rng, scale=scale), (z, y, x)
    both = labels == BY_NAME[organ_of(shape.kind)].value
    right = outwards(organ, both, step, hull) < 0
    # A kidney's poles are alike.
    turned = bool(rng.random() < 0.5)
    form = RealForm.of(shape, rng, (turned, False, right != shape.mirrored), scale)
    return form, (-z if turned else z, y, -x if right else x)


class _Search:
    """Scores of places for one form in one organ; positions are mm in the thinned-out box."""

    def __init__(self, form: RealForm, hull: Hull, organ: Mask, free: Mask, step: Spacing) -> None:
        self._form, self._hull, self._organ, self._free = form, hull, organ, free
        self._step = np.asarray(step)
        self._paired = _PAIRED[form.shape.kind]

    def best(self, wanted: Points, rng: np.random.Generator) -> Points | None:
        """The best centre (3,), or ``None``."""
        centres, near = self._near(wanted, rng)
        scores = [self._score(c) + float(n) for c, n in zip(centres, near, strict=True)]
        if not scores or not np.isfinite(min(scores)):
            return None
        return np.asarray(centres[int(np.argmin(scores))])

    def _near(self, wanted: Points, rng: np.random.Generator) -> tuple[Points, Points]:
        """The centres (n, 3) most like the wanted place, and how unlike (n,) they are."""
        radius = self._form.diameter_mm / 2
        weights = np.asarray(_PAIRED_WEIGHTS if self._paired else _SINGLE_WEIGHTS)
        if self._paired:
            grown = radius * (1 + max(self._form.shape.depth, 0.0))
            low, high = self._hull.low - grown, self._hull.high + grown
            centres = rng.uniform(low, high, (_CANDIDATES, 3))
            depth = self._hull.distance(centres) / radius
            unlike = 2 * np.abs(depth - np.clip(self._form.shape.depth, -3.0, 1.0))
        else:
            voxels = np.argwhere(self._organ)
            chosen = rng.integers(len(voxels), size=min(len(voxels), _CANDIDATES))
            centres = voxels[chosen] * self._step
            unlike = np.zeros(len(centres))
        away = ((self._hull.relative(centres) - wanted) ** 2 * weights).sum(1)
        unlike = unlike + away + rng.exponential(_JITTER, len(centres))
        order = np.argsort(unlike)[:_TRIED]
        return centres[order], unlike[order]

    def _score(self, centre: Points) -> float:
        """How badly a form lies there; infinite where it cannot."""
        at = np.round((self._form.points + centre) / self._step).astype(int)
        seen = ((at >= 0) & (at < self._free.shape)).all(1)
        z, y, x = np.clip(at, 0, np.asarray(self._free.shape) - 1).T
        free = float((seen & self._free[z, y, x]).mean())
        touching = float((seen & self._organ[z, y, x]).mean())
        if free < _ROOM[self._paired] or touching < _CONTACT[self._paired]:
            return float("inf")
        score = 4 * (1 - free)
        if not self._paired:
            # A cancer replaces the gland as far as there is some.
            return score + 2 * (1 - touching)
        beyond = float((self._hull.distance(self._form.points[::2] + centre) > 0).mean())
        return score + 3 * abs(beyond - self._form.shape.exophytic)
