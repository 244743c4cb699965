"""Reading what a site answers: nothing of it is believed before it is checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from federation import message
from federation.codec import decode
from federation.parts import Weights, under
from imaging.errors import MessageRefused, UpdateRefused
from models.labels import BY_NAME

# More than any hospital has.
_MOST_CASES = 10**9
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Facts:
    """What a site said of itself, as far as its policy lets it.

    Attributes:
        cases: that it trains on; 1 where it does not say.
        annotated: structures of the recipe that it labels.
        loss: mean of the round; ``None`` where there is none.
        seconds: of its training and scoring.
        scores: mean Dice by structure, 0 to 1.
    """

    cases: int = 1
    annotated: tuple[str, ...] = ()
    loss: float | None = None
    seconds: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Facts:
        """The facts of a reply.

        Raises:
            UpdateRefused: values that cannot be.
        """
        try:
            found = cls(
                int(raw.get("cases", 1)),
                tuple(map(str, raw.get("annotated", ()))),
                None if raw.get("loss") is None else float(raw["loss"]),
                None if raw.get("seconds") is None else float(raw["seconds"]),
                {str(n): float(v) for n, v in raw.get("scores", {}).items()},
            )
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UpdateRefused(f"The facts are none ({error}).", code="damaged") from error
        numbers = [found.loss or 0.0, found.seconds or 0.0]
        if (
            not 1 <= found.cases <= _MOST_CASES
            or not {*found.annotated, *found.scores} <= set(BY_NAME)
            or not all(math.isfinite(n) for n in numbers)
            or numbers[1] < 0
            or not all(0 <= v <= 1 for v in found.scores.values())
        ):
            raise UpdateRefused("The facts are out of range.", code="damaged")
        return found


def answer_of(body: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A site's answer, header and arrays.

    Raises:
        UpdateRefused: it is none, or the site's refusal.
    """
    try:
        header, arrays = message.unpack(body)
    except MessageRefused as error:
        raise UpdateRefused(error.message, code="damaged") from error
    if header.get("kind") == "refused":
        code = header.get("code")
        if not (isinstance(code, str) and _CODE.fullmatch(code)):
            raise UpdateRefused("The site refused in no known way.", code="damaged")
        if code == MessageRefused.code:
            raise MessageRefused("The site could not read the request.")
        raise UpdateRefused(f"The site refused: {code}.", code=code)
    if header.get("kind") != "done" or not isinstance(header.get("facts"), dict):
        raise UpdateRefused("The reply is no answer of a site.", code="damaged")
    return header, arrays


def norms_of(arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """The site's normalisation layers, where it let them out.

    Args:
        arrays: of an answer.
        shapes: of the layers that the strategy keeps at the sites.

    Raises:
        UpdateRefused: another network's, or a variance below 0.
    """
    found = under("norms/", arrays)
    if not found:
        return {}
    norms = decode(found)
    if {name: value.shape for name, value in norms.items()} != shapes:
        raise UpdateRefused("The normalisation layers are another network's.", code="damaged")
    if any(name.endswith("running_var") and (v < 0).any() for name, v in norms.items()):
        raise UpdateRefused("A variance is below 0.", code="damaged")
    return norms
