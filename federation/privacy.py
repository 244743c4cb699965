"""Differential privacy of a site's updates: what is added, and what may be said of it.

The site clips and adds the noise itself, so it need not trust the server (local differential
privacy). Dwork and Roth 2014, "The algorithmic foundations of differential privacy", section 3.5;
McMahan et al. 2018, "Learning differentially private recurrent language models", for the joint
clip of all tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from federation.job import Privacy
from imaging.errors import BadParameter, UpdateRefused

# Two updates of norm clip lie at most two clips apart.
_APART = 2.0


def protect(
    update: Mapping[str, NDArray[np.float32]], privacy: Privacy, rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """An update that may leave: clipped as one vector, then blurred by normal noise.

    It must be the last thing that sees the site's data. Rounding and error feedback come after it
    and only see what is protected already. The noise is of float64, whose gaps can betray a value
    in theory (Mironov 2012, "On significance of the least significant bits"); nothing is done
    against that.

    Args:
        update: all that leaves of a network, running statistics among it.
        privacy: clip and noise.
        rng: made from entropy of this machine. From a seed in the job the server would know the
            noise and could take it away.

    Returns:
        float32 tensors of the same names and shapes.

    Raises:
        UpdateRefused: a value is not finite; names the tensor.
    """
    squares = {name: float(np.square(update[name], dtype=np.float64).sum()) for name in update}
    for name, square in squares.items():
        if not math.isfinite(square):
            raise UpdateRefused(
                f"{name!r} has values that are not finite; look at the loss of this site's "
                "training."
            )
    norm = math.sqrt(sum(squares.values()))
    factor = privacy.clip / max(norm, privacy.clip)
    deviation = privacy.noise * privacy.clip
    return {
        name: (update[name] * factor + rng.normal(0.0, deviation, update[name].shape)).astype(
            np.float32
        )
        for name in sorted(update)
    }


def statement(privacy: Privacy, rounds: int) -> tuple[float, str]:
    """What the noise of a whole job is worth.

    A site is known to take part, so what is hidden is which data it trained on: its update might
    have been any other of norm ``clip``, up to two clips away, and the noise counts half. Every
    round is a Gaussian mechanism on all data of the site; no sampling helps. Opacus adds up the
    rounds by Rényi differential privacy (Mironov 2017), which is an upper bound.

    Args:
        privacy: clip, noise and delta.
        rounds: updates that leave a site. A round that is repeated counts again: its noise is new.

    Returns:
        Epsilon at ``privacy.delta``, infinite without noise, and sentences for a report.

    Raises:
        BadParameter: a negative number of rounds.
    """
    if rounds < 0:
        raise BadParameter(f"A job has no rounds or some, not {rounds}.")
    if rounds == 0:
        return 0.0, "No update has left a site."
    if privacy.noise == 0:
        return math.inf, (
            f"Updates are clipped to a norm of {privacy.clip:g} and carry no noise: epsilon is "
            "infinite, nothing is differentially private."
        )
    epsilon = _epsilon(privacy.noise / _APART, rounds, privacy.delta)
    return epsilon, (
        f"A site's updates of all {rounds} rounds together are differentially private with "
        f"epsilon {epsilon:.3g} at delta {privacy.delta:g}, against the server and the other "
        "sites. What is protected is the site's contribution as a whole: which data it trained "
        "on. One patient is covered as a part of it, with no smaller epsilon. Facts that travel "
        "beside the updates, such as numbers of cases and scores, are not covered."
    )


def _epsilon(multiplier: float, rounds: int, delta: float) -> float:
    """Epsilon of so many Gaussian mechanisms of one noise multiplier."""
    # Opacus takes a second to import; only jobs with privacy need it.
    from opacus.accountants.analysis import rdp

    # The best order is near 1 + multiplier * sqrt(2 log(1/delta) / rounds).
    orders = (1 + np.geomspace(1e-6, 1e8, 2000)).tolist()
    spent = rdp.compute_rdp(q=1.0, noise_multiplier=multiplier, steps=rounds, orders=orders)
    epsilon, _ = rdp.get_privacy_spent(orders=orders, rdp=spent, delta=delta)
    return max(0.0, float(epsilon))
