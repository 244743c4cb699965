"""What a site can answer that must not join a job, and must not end it either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation import message
from federation.answer import Facts, norms_of
from federation.coordinator import Coordinator, united
from imaging.errors import MessageRefused, UpdateRefused
from tests.federation.sites import job


@pytest.mark.parametrize(
    "raw",
    [
        {"cases": 0},
        {"cases": 10**400},
        {"cases": "many"},
        {"loss": 10**400},
        {"seconds": -1.0},
        {"scores": {"kidney": 1.5}},
        {"scores": [0.5]},
        {"annotated": 3},
    ],
)
def test_facts_that_cannot_be(raw: dict[str, Any]) -> None:
    with pytest.raises(UpdateRefused):
        Facts.read(raw)


def test_a_site_that_cannot_read_whole_weights_is_not_asked_again(tmp_path: Path) -> None:
    coordinator = Coordinator(job(), tmp_path)
    body = message.pack({"kind": "refused", "code": MessageRefused.code}, {})
    for _ in range(2):
        coordinator.request("c1")
        with pytest.raises(UpdateRefused):
            coordinator.accept("c1", body, 1.0)
        coordinator.repeat_round()


@pytest.mark.parametrize(
    ("names", "shape", "value", "message"),
    [
        (["n.running_mean"], (2,), 1, "another network"),
        (["n.running_mean", "n.running_var", "m"], (2,), 1, "another network"),
        (["n.running_mean", "n.running_var"], (3,), 1, "another network"),
        (["n.running_mean", "n.running_var"], (2,), -1, "below 0"),
    ],
)
def test_norms_of_another_network_are_refused(
    names: list[str], shape: tuple[int, ...], value: float, message: str
) -> None:
    shapes = {"n.running_mean": (2,), "n.running_var": (2,)}
    arrays = {f"norms/{n}": np.full(shape, value, np.float32) for n in names}
    with pytest.raises(UpdateRefused, match=message):
        norms_of(arrays | {"norms/@scales": np.empty(0, np.float32)}, shapes)


def test_norms_may_stay_at_their_site() -> None:
    assert norms_of({"update/w": np.zeros(1)}, {"n.bias": (2,)}) == {}


def test_overlapping_spans_count_once() -> None:
    assert united([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 6)]
    assert united([]) == []
