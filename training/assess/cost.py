"""What a training took: seconds from its history, energy and CO2 from two named assumptions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from imaging.errors import BadParameter, DataError
from training.trainer import HISTORY

# What a federation keeps of its rounds; its server has the same beside its state.
ROUNDS = "results/rounds.json"
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
        run: of a training or a federation, or above several. Trainings that ran at the same time
            count each for itself, the sites of a federation together: its rounds are counted.

    Returns:
        The sum; ``None`` where a history has an entry without ``seconds``.

    Raises:
        DataError: no history there, or one that does not parse.
    """
    trainings, federations = sorted(run.rglob(HISTORY)), sorted(run.rglob(ROUNDS))
    if not trainings and not federations:
        raise DataError(f"{run} holds no training ({HISTORY}, {ROUNDS}); name a run's folder.")
    try:
        entries = [json.loads(line) for f in trainings for line in f.read_text().splitlines()]
        entries += [entry for f in federations for entry in json.loads(f.read_text())["rounds"]]
        seconds = [entry.get("seconds") for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"A history below {run} does not parse ({error!r}).") from error
    if not seconds or None in seconds:
        return None
    return float(sum(seconds))
