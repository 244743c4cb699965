"""What a difference between scores is worth: paired tests and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from imaging.errors import BadParameter

_RESAMPLES = 10_000


def paired_wilcoxon(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p value of Wilcoxon's signed-rank test over pairs; 1 where all are equal.

    Equal pairs are dropped, as Wilcoxon (1945) did; the rest is ``scipy.stats.wilcoxon``, which is
    exact for few pairs without ties.

    Args:
        a, b: scores of the same cases in the same order.

    Raises:
        BadParameter: no pairs, unequal lengths, or a score that is not finite.
    """
    # Rounded, so that equal differences are ties whatever their last bits say.
    difference = np.round(_differences(a, b), 12)
    if not difference.any():
        return 1.0
    return float(wilcoxon(difference, zero_method="wilcox").pvalue)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P values corrected for their number, in the order given (Holm 1979).

    Rejecting those of at most alpha keeps the chance of a single false rejection below alpha.

    Raises:
        BadParameter: a value outside 0 to 1.
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise BadParameter(f"P values lie in 0 to 1, not {list(p_values)}.")
    order = np.argsort(p, kind="stable")
    raised = np.minimum(p[order] * np.arange(len(p), 0, -1), 1)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(raised)
    return tuple(corrected.tolist())


def bootstrap_interval(
    values: Sequence[float], seed: int, level: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean (Efron 1979), from 10,000 resamples.

    Args:
        values: one for each case.
        seed: of the resampling.
        level: the part of the resampled means between the ends.

    Raises:
        BadParameter: no values, one that is not finite, or a level outside 0 to 1.
    """
    scores = _finite(values)
    if not 0 < level < 1:
        raise BadParameter(f"level must lie between 0 and 1, not {level}.")
    rng = np.random.default_rng(seed)
    means = scores[rng.integers(len(scores), size=(_RESAMPLES, len(scores)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_difference(
    a: Sequence[float], b: Sequence[float], seed: int, level: float = 0.95
) -> tuple[float, float]:
    """The bootstrap interval of mean(a - b) where pairs are drawn together.

    Args:
        a, b: scores of the same cases in the same order.
        seed, level: as in :func:`bootstrap_interval`.

    Raises:
        BadParameter: as in :func:`paired_wilcoxon` and :func:`bootstrap_interval`.
    """
    return bootstrap_interval(_differences(a, b).tolist(), seed, level)


def _differences(a: Sequence[float], b: Sequence[float]) -> NDArray[np.float64]:
    if len(a) != len(b):
        raise BadParameter(f"There are {len(a)} and {len(b)} scores; give both for the same cases.")
    return _finite(a) - _finite(b)


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    if not (len(found) and np.isfinite(found).all()):
        raise BadParameter(f"Scores must be finite and at least one, not {list(values)[:8]}.")
    return found
