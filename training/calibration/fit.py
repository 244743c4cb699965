"""Temperature, trust and bounds from observations, and how well they do on cases left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from models.confidence import confidence_of, features, is_lesion, probability
from models.labels import BY_NAME
from models.manifest import Manifest, Trust
from training.calibration.copies import AS_IS
from training.calibration.observe import Observation, Voxels

F64 = NDArray[np.float64]

# A map of three numbers is not fitted on less.
_FEWEST = 12
# Ridge on the slopes: a handful of cases must not make a step of the map.
_RIDGE = 0.005
# An organ of this Dice at most is not there, one of that Dice at least is.
WRONG, FOUND = 0.1, 0.5
# The part of the organs that are there that a bound may lose.
_LOST = 0.02
# Of lesions that are none, so many may be believed a CT.
_FALSE_LESIONS = 0.5


@dataclass(frozen=True)
class Bin:
    """Observations of neighbouring confidence: their means and how many."""

    confidence: float
    outcome: float
    count: int


def reliability(confidence: F64, outcome: F64, bins: int = 10) -> tuple[Bin, ...]:
    """Bins of equal count, by ascending confidence."""
    order = np.argsort(confidence, kind="stable")
    return tuple(
        Bin(float(confidence[part].mean()), float(outcome[part].mean()), len(part))
        for part in np.array_split(order, bins)
        if len(part)
    )


def calibration_error(confidence: F64, outcome: F64, bins: int = 10) -> float:
    """Expected calibration error over bins of equal count (Nixon et al., "Measuring Calibration in
    Deep Learning", CVPR workshops 2019); NaN without observations.
    """
    found = reliability(confidence, outcome, bins)
    total = sum(b.count for b in found)
    if not total:
        return float("nan")
    return sum(b.count * abs(b.confidence - b.outcome) for b in found) / total


def fit_temperature(voxels: Sequence[Voxels], manifest: Manifest) -> float:
    """The temperature of the least log loss of "this label is right", every case alike.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, on the chosen label alone.
    """

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        return float(np.mean([_log_loss(v, manifest, temperature) for v in voxels]))

    return round(float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x)), 3)


def _log_loss(voxels: Voxels, manifest: Manifest, temperature: float) -> float:
    p = np.clip(probability(voxels.scores, voxels.labels, manifest, temperature), 1e-6, 1 - 1e-6)
    return float(-np.where(voxels.right, np.log(p), np.log1p(-p)).mean())


def fit_trust(observations: Sequence[Observation], outputs: Iterable[str]) -> tuple[Trust, ...]:
    """How each structure is trusted.

    All lesions share one map: a kind that is marked wrongly in two or three places, the same ones
    in every copy, would learn these by heart. So does an organ with too few observations, or of
    one outcome only, with all organs; where these are too few as well there is no entry. An organ's
    bound is :func:`best_bound`'s, lesions share :func:`lesion_bound`'s.
    """
    found = []
    for name in outputs:
        own = [o for o in observations if o.structure == name]
        lesion = is_lesion(BY_NAME[name])
        alike = [o for o in observations if is_lesion(BY_NAME[o.structure]) == lesion]
        usual = {n: _usual_ml(alike, n) for n in {*(o.structure for o in alike), name}}
        for used in (alike,) if lesion else (own, alike):
            if len(used) >= _FEWEST and np.ptp([o.outcome for o in used]) > FOUND:
                found.append(_fitted(name, used, usual))
                break
    least = lesion_bound(found, observations)
    return tuple(replace(t, least=least) if is_lesion(BY_NAME[t.structure]) else t for t in found)


def _usual_ml(alike: Sequence[Observation], name: str) -> float:
    """Median of the whole, true organs; of lesions, of the real ones of all kinds that were marked.

    Of an organ that was never seen whole, of those that were seen at all.
    """
    if is_lesion(BY_NAME[name]):
        volumes = [o.true_ml for o in alike if o.outcome == 1]
    else:
        volumes = [o.true_ml for o in alike if o.structure == name and o.copy == AS_IS]
    there = [v for v in volumes if v > 0] or [o.true_ml for o in alike if o.true_ml > 0]
    return round(float(np.median(there or [1.0])), 3)


def _fitted(name: str, used: Sequence[Observation], usual: dict[str, float]) -> Trust:
    """A logistic map by maximum likelihood (fractional outcomes too), slopes not negative."""
    seen = np.array([(1.0, *features(o.evidence, usual[o.structure])) for o in used])
    outcome = np.array([o.outcome for o in used])
    weight = _case_weights(used)

    def loss(w: F64) -> float:
        worth = seen @ w
        likelihood = weight @ (np.logaddexp(0, worth) - outcome * worth)
        return float(likelihood + _RIDGE * (w[1:] ** 2).sum())

    bounds = [(None, None), (0, None), (0, None)]
    offset, certainty, size = minimize(loss, np.array([0.0, 1.0, 0.5]), bounds=bounds).x
    trust = Trust(
        name,
        round(float(offset), 4),
        round(float(certainty), 4),
        round(float(size), 4),
        usual[name],
    )
    confidence = [_with_usual(trust, o, usual) for o in used]
    least = best_bound(np.array(confidence), outcome)
    return Trust(name, trust.offset, trust.certainty, trust.size, trust.usual_ml, least)


def lesion_bound(trust: Iterable[Trust], observations: Iterable[Observation]) -> float:
    """The lowest confidence with half a false lesion or less a CT, of all kinds together.

    Who is told of a tumor in every patient soon looks at none. It holds for patients' CTs as they
    are, and for all of them and their changed copies together, of those in which anything was
    marked. Where something was made, a lesion named as another kind would count as well, and
    phantoms mislead in other ways. A confidence is the probability that the lesion is real: of all
    bounds with so many false ones, one for all kinds keeps the most real ones.
    """
    of = {t.structure: t for t in trust if is_lesion(BY_NAME[t.structure])}
    patients = [o for o in observations if not o.made]
    as_they_are = [o for o in patients if o.copy == AS_IS]
    return max(_least(seen, of) for seen in (patients, as_they_are))


def _least(seen: Sequence[Observation], trust: Mapping[str, Trust]) -> float:
    most = int(_FALSE_LESIONS * len({(o.case, o.copy) for o in seen}))
    false = [
        confidence_of(o.evidence, trust[o.structure])
        for o in seen
        if o.structure in trust and o.outcome <= WRONG
    ]
    if len(false) <= most:
        return 0.0
    # The next thousandth above the first that is one too many.
    return math.floor(1000 * sorted(false, reverse=True)[most] + 1) / 1000


def _with_usual(trust: Trust, seen: Observation, usual: dict[str, float]) -> float:
    own = Trust(trust.structure, trust.offset, trust.certainty, trust.size, usual[seen.structure])
    return confidence_of(seen.evidence, own)


def _case_weights(used: Sequence[Observation]) -> F64:
    """Every case counts the same, however many copies of it there are; they add up to 1."""
    cases = [o.case for o in used]
    return np.array([1 / cases.count(c) for c in cases]) / len(set(cases))


def best_bound(confidence: F64, outcome: F64) -> float:
    """The bound that best tells what is there from what is not, and hardly loses what is there.

    The greatest Youden index (Youden, "Index for rating diagnostic tests", Cancer 1950), the
    lowest of equal ones, of the bounds that keep all but one in fifty of what is there: a mask too
    many is seen, one that is missing is not. 0 where nothing was wrong or nothing was found.
    """
    there, wrong = confidence[outcome >= FOUND], confidence[outcome <= WRONG]
    if not there.size or not wrong.size:
        return 0.0
    known = np.unique(np.concatenate([there, wrong]))
    bounds = np.concatenate([[0.0], (known[1:] + known[:-1]) / 2])
    bounds = bounds[[(there >= b).mean() >= 1 - _LOST for b in bounds]]
    youden = [(there >= b).mean() + (wrong < b).mean() for b in bounds]
    return round(float(bounds[int(np.argmax(youden))]), 3)
