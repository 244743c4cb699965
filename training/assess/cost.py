"""What a training took: seconds from its history, energy and CO2 from two named assumptions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from imaging.errors import BadParameter, DataError
from training.trainer import HISTORY

# A small computer at work, all of it: assumption.
WATTS = 60.0
# The world's electricity, about: 480 g CO2 a kWh in 2023 (Ember, Global Electricity Review 2024).
GRAMS_PER_KWH = 480.0


@dataclass(frozen=True)
class Power:
    """What turns seconds into grams.

    Attributes:
        watts: of the machine at work.
        grams_per_kwh: CO2 of its electricity.

    Raises:
        BadParameter: a negative value.
    """

    watts: float = WATTS
    grams_per_kwh: float = GRAMS_PER_KWH

    def __post_init__(self) -> None:
        if min(self.watts, self.grams_per_kwh) < 0:
            raise BadParameter(
                f"watts and grams of CO2 a kWh must not be negative, not {self.watts} and "
                f"{self.grams_per_kwh}."
            )

    def kwh(self, seconds: float) -> float:
        """The energy of so many seconds."""
        return self.watts * seconds / 3_600_000

    def grams(self, seconds: float) -> float:
        """The CO2 of so many seconds."""
        return self.kwh(seconds) * self.grams_per_kwh


def training_seconds(run: Path) -> float | None:
    """The seconds that all trainings below a folder took, as their histories say.

    Args:
        run: of a training, or above several: a cross-validation's or a federation's. Trainings
            that ran at the same time count each for itself.

    Returns:
        The sum; ``None`` where a history has an entry without ``seconds``.

    Raises:
        DataError: no history there, or one that does not parse.
    """
    files = sorted(run.rglob(HISTORY))
    if not files:
        raise DataError(f"{run} holds no training ({HISTORY}); name a run's folder.")
    try:
        entries = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    except ValueError as error:
        raise DataError(f"A history below {run} does not parse ({error}).") from error
    seconds = [entry.get("seconds") for entry in entries]
    if not seconds or None in seconds:
        return None
    return float(sum(seconds))
