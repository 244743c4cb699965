"""Typical Hounsfield units of organs by contrast phase.

Assumptions: rounded and wide ranges for phases at about 20 to 25 s (early arterial), 35 to 45 s
(late arterial or pancreatic), 60 to 80 s (portal venous) and minutes (delayed) after the injection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imaging.errors import BadParameter

Range = tuple[float, float]


@dataclass(frozen=True)
class Phase:
    """HU ranges of one contrast phase, and what it shows besides.

    Attributes:
        liver, spleen, pancreas, cortex, medulla: of the organs; cortex and medulla of the kidney.
        blood: in veins and in most of what is not labelled.
        artery: in arteries.
        muscle: change of muscle and bowel wall against no contrast agent.
        mottled: standard deviation of the spleen's stripes.
        urine: in the kidney's pelvis; ``None`` where no contrast agent is there yet.
    """

    liver: Range
    spleen: Range
    pancreas: Range
    cortex: Range
    medulla: Range
    blood: Range
    artery: Range
    muscle: Range = (0.0, 5.0)
    mottled: float = 0.0
    urine: Range | None = None


PHASES: dict[str, Phase] = {
    "none": Phase(
        *((45, 65), (42, 56), (28, 46), (25, 38), (25, 38), (34, 50), (34, 50)), muscle=(-5, 5)
    ),
    "early-arterial": Phase(
        *((48, 70), (75, 130), (55, 95), (110, 190), (38, 70), (40, 60), (230, 400)),
        muscle=(0, 5),
        mottled=30.0,
    ),
    "late-arterial": Phase(
        *((60, 95), (95, 150), (85, 135), (140, 220), (60, 120), (70, 130), (180, 320)),
        muscle=(0, 10),
        mottled=10.0,
    ),
    "portal": Phase(
        *((90, 135), (100, 145), (70, 115), (150, 215), (135, 205), (140, 200), (140, 200)),
        muscle=(5, 15),
    ),
    "delayed": Phase(
        *((70, 105), (75, 110), (50, 85), (100, 160), (105, 165), (85, 130), (85, 130)),
        muscle=(5, 15),
        urine=(150, 900),
    ),
}

# A fatty liver is darker in every phase; part of the patients, and how much darker.
_FATTY_P, _FATTY_HU = 0.25, (10.0, 50.0)


def drawn(phase: str, rng: np.random.Generator) -> dict[str, float]:
    """One patient's HU in a phase.

    Args:
        phase: a name of :data:`PHASES`.
        rng: the only source of randomness.

    Returns:
        A value for each range of :class:`Phase`; ``urine`` is missing where it has none.

    Raises:
        BadParameter: no such phase.
    """
    if phase not in PHASES:
        raise BadParameter(f"phase must be one of {', '.join(PHASES)}, not {phase!r}.")
    ranges = {name: v for name, v in vars(PHASES[phase]).items() if isinstance(v, tuple)}
    found = {name: float(rng.uniform(*v)) for name, v in ranges.items()}
    if rng.random() < _FATTY_P:
        found["liver"] -= float(rng.uniform(*_FATTY_HU))
    found["mottled"] = PHASES[phase].mottled
    return found
