"""What a trial says of one family of faults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A line of the reliability table.

    Attributes:
        family: what was done to the software.
        tried: how often.
        survived: how often it ended as promised: the right answer, or the right refusal.
        lost: how often not.
        figure: what else was measured, in a short phrase with its number.

    Raises:
        ValueError: what survived and what was lost are not what was tried.
    """

    family: str
    tried: int
    survived: int
    lost: int
    figure: str

    def __post_init__(self) -> None:
        if self.survived + self.lost != self.tried:
            raise ValueError(
                f"{self.family}: {self.survived} survived and {self.lost} lost are not "
                f"{self.tried} tried."
            )
