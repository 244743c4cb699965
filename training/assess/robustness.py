"""Dice against the strength of what another hospital's CT may differ by."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.volume import Volume, to_canonical
from training.assess.changes import (
    Changed,
    cut,
    enhancement,
    noise_field,
    noisy,
    small_field,
    thick,
    turned,
    washed_out,
)
from training.assess.subjects import Bench
from training.assess.tables import judged
from training.metrics import dice, judgeable, mask_of

# Of a structure that a change leaves less than this part of, nothing is scored.
_LEAST_LEFT = 0.1


@dataclass(frozen=True)
class Series:
    """One kind of change.

    Attributes:
        title: with the unit of its strengths, for a plot's axis.
        strengths: what is tried.
        none: the strength that changes nothing; between or beside the others.
    """

    title: str
    strengths: tuple[float, ...]
    none: float


SERIES: dict[str, Series] = {
    "noise": Series("noise added, HU", (20, 40, 60, 80), 0),
    "thickness": Series("slices of about, mm", (3, 5, 7, 10), 0),
    "phase": Series("part of the enhancement left", (0, 0.25, 0.5, 0.75), 1),
    "turned onto a side": Series("turned onto a side, degrees", (-30, -15, 15, 30), 0),
    "turned sideways": Series("turned sideways, degrees", (-30, -15, 15, 30), 0),
    "nodding": Series("nodding, degrees", (-30, -15, 15, 30), 0),
    "cut from below": Series("upper part of the organs left", (0.25, 0.5, 0.75), 1),
    "cut from above": Series("lower part of the organs left", (0.25, 0.5, 0.75), 1),
    "field of view": Series("field of view, mm", (200, 250, 300), 500),
}
_AXES = {"turned onto a side": 0, "turned sideways": 1, "nodding": 2}


def measure(bench: Bench, seed: int, asked: Sequence[str] = ()) -> dict[str, Any]:
    """Dice of one case's structures under every change.

    Args:
        bench: the case and its model.
        seed: of the noise.
        asked: structures to score; all that can be where empty.

    Returns:
        ``points``: for each change ``series``, ``strength``, ``actual`` (the thickness that was
        made, else the strength) and ``dice`` by structure. A structure of which the change leaves
        less than a tenth is not in ``dice``.
    """
    names = judged(bench, asked)
    image, truth = (to_canonical(v) for v in (bench.loaded.image, bench.loaded.labels))
    plain = Changed(
        Volume(np.ascontiguousarray(image.array), image.geometry),
        Volume(np.ascontiguousarray(truth.array), truth.geometry),
    )
    whole = {name: int(mask_of(plain.truth.array, name).sum()) for name in names}
    predicted = to_canonical(bench.loaded.image.with_array(bench.untouched[0])).array
    unchanged = _dice(predicted, plain.truth.array, whole)
    points = []
    for name, series in SERIES.items():
        change = _change(name, plain, _rng(seed, bench.loaded.name))
        for strength in series.strengths:
            changed, actual = change(strength)
            scores = unchanged
            if changed is not plain:
                labels = bench.labels_on(changed.image, changed.truth)
                scores = _dice(labels, changed.truth.array, whole)
            points.append({"series": name, "strength": strength, "actual": actual, "dice": scores})
        points.append(
            {"series": name, "strength": series.none, "actual": series.none, "dice": unchanged}
        )
    return {"points": points}


def curves(figures: Mapping[str, Any]) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Dice of every case, by series, structure and strength (ascending)."""
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for case in figures.values():
        for point in case["points"]:
            for name, value in point["dice"].items():
                by_strength = found.setdefault(point["series"], {}).setdefault(name, {})
                by_strength.setdefault(point["strength"], []).append(value)
    return {
        series: {name: dict(sorted(points.items())) for name, points in names.items()}
        for series, names in found.items()
    }


def _change(
    name: str, plain: Changed, rng: np.random.Generator
) -> Callable[[float], tuple[Changed, float]]:
    """Strength in, the changed case and the strength that it really has out."""
    if name == "thickness":
        return lambda strength: thick(plain, strength)
    if name == "noise":
        change = functools.partial(noisy, plain, noise_field(plain.image, rng))
    elif name == "phase":
        change = functools.partial(washed_out, plain, enhancement(plain.image))
    elif name == "field of view":
        change = functools.partial(small_field, plain)
    elif name in _AXES:
        change = functools.partial(turned, plain, _AXES[name])
    else:
        sign = 1 if name == "cut from below" else -1
        return lambda strength: (cut(plain, sign * strength), strength)
    return lambda strength: (change(strength), strength)


def _dice(
    predicted: NDArray[np.uint8], truth: NDArray[np.uint8], whole: Mapping[str, int]
) -> dict[str, float]:
    found, predicted = {}, judgeable(predicted, truth)
    for name, voxels in whole.items():
        there = mask_of(truth, name)
        if np.count_nonzero(there) >= _LEAST_LEFT * max(voxels, 1):
            found[name] = dice(mask_of(predicted, name), there)
    return found


def _rng(seed: int, case: str) -> np.random.Generator:
    """A generator of the seed and the case's name, whatever other cases there are."""
    return np.random.default_rng([seed, *hashlib.sha256(case.encode()).digest()[:8]])
