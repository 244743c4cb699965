"""A whole case whose organs take other patients' forms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.geometry import Geometry
from imaging.resample import resample_nearest
from imaging.volume import Volume, to_canonical
from models.labels import STRUCTURES
from models.manifest import Sampling
from models.preprocess import model_grid
from training.cases import Loaded
from training.reshaping.forms import ORGANS, Form, Forms, Organ, two_largest
from training.reshaping.warp import Warp, chained, towards

Mask = NDArray[np.bool_]

# Forms are matched on this grid.
_STEP_MM = 4.0
# Kidneys in less than this are pieces (ml).
_SMALLEST_ML = 50.0
# How far a form's middle is from the organ's own, along each axis.
_APART_MM = 4.0
# A form is taken at a size so near to the organ's own, as a part of it: one twice as large would
# press its neighbours, a spleen above all, into forms that no patient has (docs/log.md).
_LIKE_SIZE = (0.75, 1.33)


@dataclass(frozen=True, eq=False)
class Reshaped:
    """A case with other forms.

    Attributes:
        image: HU on the case's own grid.
        labels: values of ``models.labels`` on that grid.
        forms: the organs that were taken, by name; none where the case labels no such organ.
    """

    image: Volume
    labels: Volume
    forms: tuple[str, ...]


def reshape_case(case: Loaded, forms: Forms, rng: np.random.Generator) -> Reshaped:
    """Give a case's pancreas and kidneys the forms of others; all that is around them follows.

    Brightness is moved, not made, and labels move with it, so a form that is met half is as true
    as one that is met whole.

    Args:
        case: CT or phantom with its labels; organs that it does not annotate stay as they are.
        forms: the library.
        rng: source of everything random.
    """
    grid = model_grid(to_canonical(case.image).geometry, Sampling((_STEP_MM,) * 3))
    labels = resample_nearest(to_canonical(case.labels), grid)
    warps: list[Warp] = []
    taken: list[str] = []
    for organ in ORGANS:
        own = _own(labels, organ) if organ.split()[-1] in case.annotated else None
        form = None if own is None else forms.draw(organ, rng)
        if own is None or form is None:
            continue
        middle = np.argwhere(own).mean(0) * _STEP_MM + rng.normal(0.0, _APART_MM, 3)
        wanted = _placed(_like(form, own, grid), middle, grid)
        warps.append(towards(own, wanted, grid))
        labels = warps[-1].labels(labels)
        taken.append(form.name)
    whole = chained(warps)
    return Reshaped(whole.image(case.image), whole.labels(case.labels), tuple(taken))


def _own(labels: Volume, organ: Organ) -> Mask | None:
    """An organ of a case with its lesions; ``None`` where it is not there to speak of."""
    name = organ.split()[-1]
    mask = np.isin(labels.array, [s.value for s in STRUCTURES if name in (s.name, s.parent)])
    if organ == "pancreas":
        return mask if mask.any() else None
    return _kidney(mask, labels.geometry, organ == "left kidney")


def _kidney(mask: Mask, grid: Geometry, left: bool) -> Mask | None:
    pair = [p for p in two_largest(mask) if p.sum() * grid.voxel_ml > _SMALLEST_ML]
    across = [float(np.argwhere(part)[:, 2].mean()) for part in pair]
    # One alone is told by the side of the CT on which it lies.
    between = sum(across) / 2 if len(pair) == 2 else (grid.shape[2] - 1) / 2
    found = (part for part, x in zip(pair, across, strict=True) if (x > between) == left)
    return next(found, None)


def _like(form: Form, own: Mask, grid: Geometry) -> Form:
    """The form at a size like the organ's own."""
    low, high = (part * float(own.sum()) * grid.voxel_ml for part in _LIKE_SIZE)
    return form.within(low, high)


def _placed(form: Form, centre: NDArray[np.float64], grid: Geometry) -> Mask:
    """A form's voxels on a grid; what lies outside of it is left out."""
    found = np.zeros(grid.shape, np.bool_)
    places = np.rint((form.points + centre) / _STEP_MM).astype(np.intp)
    inside = ((places >= 0) & (places < grid.shape)).all(axis=1)
    found[tuple(places[inside].T)] = True
    return found
