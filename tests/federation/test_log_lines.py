"""What a site answers ends in the server's log; none of it makes a line of its own there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from federation import message
from federation.aggregate import Average
from federation.answer import Facts, answer_of
from federation.codec import SCALES, decode
from imaging.errors import MessageRefused, UpdateRefused

FORGED = "x\r\n2026-03-01 CRITICAL all is lost\x1b[31m\u2028"
SHAPES = {"weight": (2,)}


def _average(update: dict[str, Any]) -> None:
    Average(SHAPES).add(update, 1.0, frozenset())


def _decoded(value: float, dtype: Any = np.float32) -> None:
    decode({FORGED: np.full(2, value, dtype), SCALES: np.empty(0, np.float32)})


ANSWERS: dict[str, Callable[[], object]] = {
    "a tensor's name": lambda: _average({FORGED: np.zeros(2, np.float32)}),
    "a tensor that is not finite": lambda: _decoded(np.nan),
    "a tensor of another type": lambda: _decoded(1, np.int64),
    "cases": lambda: Facts.read({"cases": FORGED}),
    "loss": lambda: Facts.read({"loss": FORGED}),
    "seconds": lambda: Facts.read({"seconds": [FORGED]}),
    "a structure": lambda: Facts.read({"annotated": [FORGED]}),
    "a score": lambda: Facts.read({"scores": {FORGED: FORGED}}),
    "a code": lambda: answer_of(message.pack({"kind": "refused", "code": FORGED}, {})),
    "a kind": lambda: answer_of(message.pack({"kind": FORGED}, {})),
    "no message": lambda: answer_of(FORGED.encode()),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_a_refusal_is_one_line(what: str) -> None:
    with pytest.raises((UpdateRefused, MessageRefused)) as caught:
        ANSWERS[what]()
    assert caught.value.message.isprintable()
    assert str(caught.value.details.get("code", "")).isprintable()
