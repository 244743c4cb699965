"""How a voxel changes with the contrast phase, by its own HU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Muscle and what is darker hardly changes with the phase.
MUSCLE_HU = 55.0


class Curve:
    """A change of HU by HU, piecewise linear, looked up in a table."""

    def __init__(self, points: list[tuple[float, float]]) -> None:
        at, change = zip(*points, strict=True)
        self._low = int(at[0])
        table = np.interp(np.arange(self._low, int(at[-1]) + 1), at, change)
        self._table = torch.from_numpy(table.astype(np.float32))

    def __call__(self, hu: Tensor) -> Tensor:
        index = (hu - self._low).clamp(0, len(self._table) - 1).to(torch.int32)
        return self._table[index]


@dataclass(frozen=True)
class Change:
    """How voxels change by their own HU.

    Attributes:
        foot: HU from which an organ's change begins, full at its median.
        slope: of what is brighter than its organ's median: vessels.
        grain: HU of noise, which is left as it is.
        curve: of what is not labelled.
    """

    foot: float
    slope: float
    grain: float
    curve: Curve

    def __call__(
        self, image: Tensor, inside: Tensor, shift: Tensor, centre: Tensor, mean: Tensor
    ) -> Tensor:
        """HU after the change.

        Args:
            image: HU (Z, Y, X), as all that follows.
            inside: 0 to 1, part of a labelled organ or bone.
            shift: of that organ's median, times ``inside``.
            centre: that median, times ``inside``.
            mean: HU of the voxel's surroundings.
        """
        calm = image - (image - mean).clamp_(-self.grain, self.grain)
        above = calm - centre / inside.clamp(0.001)
        ramp = above.div((calm - above).sub_(self.foot).clamp_(40)).add_(1).clamp_(0, 1)
        veins = above.clamp_(0, 80).mul_(self.slope - 1).mul_((shift.abs() / 40).clamp_(0, 1))
        rest = self.curve(calm).mul_(1 - inside)
        return ramp.mul_(shift).add_(veins).add_(rest).add_(image)


def unlabelled_curve(
    means: dict[str, float],
    wanted: dict[str, float],
    blood: float | None,
    rng: np.random.Generator,
) -> Curve:
    """What unlabelled soft tissue becomes: muscle hardly changes, blood and bowel wall do."""
    muscle = wanted["muscle"]
    if blood is None:
        return Curve([(-20, 0), (30, 0), (MUSCLE_HU, muscle), (90, muscle), (150, 0)])
    # A curve cannot tell arteries from veins: one draw for both, anywhere between them.
    vessel = wanted["blood"] + rng.random() * (wanted["artery"] - wanted["blood"]) - blood
    points = [(-20.0, 0.0), (30.0, 0.0), (MUSCLE_HU, muscle - 8)]
    # Where a mask left out part of the liver, or nothing is labelled as such, it follows the rest.
    liver = means.get("liver", 105.0)
    if MUSCLE_HU + 15 < liver < blood - 15:
        points.append((liver, wanted["liver"] - liver))
    points.append((blood, vessel))
    points.append((250.0, vessel + (0 if vessel > 0 else 0.9 * (blood - 250))))
    return Curve([*points, (380.0, 0.0)])
