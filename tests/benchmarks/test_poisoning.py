"""The attack reaches the server as it is named, and what it does is told from what it does not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from benchmarks.trials import poisoning
from benchmarks.trials.poisoning import ATTACKS, BACKDOOR, NOBODY, STRATEGIES, Attacked, Found
from federation import message
from federation.codec import decode, encode
from federation.exchange import Reply
from federation.parts import under
from imaging.errors import UpdateRefused

UPDATE = {"weight": np.arange(4000, dtype=np.float32).reshape(2, 2000)}


class Answered:
    """An exchange with answers at hand."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)

    def present(self) -> Mapping[str, str]:
        return {reply.site: reply.visit for reply in self.replies}

    def ask(self, site: str, request: bytes) -> None: ...

    def receive(self, seconds: float) -> Reply | None:
        return self.replies.pop(0) if self.replies else None

    def withdraw(self, site: str) -> None: ...

    def stopped(self) -> bool:
        return False


def reply(site: str) -> Reply:
    arrays = {f"update/{name}": values for name, values in encode(UPDATE, "fp32").items()}
    return Reply(site, "visit", message.pack({"kind": "done", "facts": {}}, arrays))


def received(attack: str, site: str) -> np.ndarray:
    change = ATTACKS[attack]
    assert change is not None
    got = Attacked(Answered(reply(site)), change, 1).receive(0.0)
    assert got is not None
    assert got.body is not None
    return decode(under("update/", message.unpack(got.body)[1]))["weight"]


@pytest.mark.parametrize(
    ("attack", "factor"), [("times 10", 10), ("times -10", -10), ("sign flipped", -1)]
)
def test_an_attacker_changes_its_own_update_alone(attack: str, factor: float) -> None:
    np.testing.assert_array_equal(received(attack, "c3"), factor * UPDATE["weight"])
    np.testing.assert_array_equal(received(attack, "c0"), UPDATE["weight"])


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UpdateRefused):
        received("NaN and infinite", "c3")


def test_nothing_is_attacked_where_nothing_came() -> None:
    assert Attacked(Answered(), lambda values, _: -values, 1).receive(0.0) is None


def test_a_federation_that_fell_is_lost() -> None:
    table = {(s, attack): Found((0.8,), (0.8,)) for s in STRATEGIES for attack in ATTACKS}
    table["rfa", "times -10"] = Found((0.1,), (0.8,))
    table["rfa", BACKDOOR] = Found((0.8,), (0.2,))
    row = poisoning._row(table)
    others = len(set(ATTACKS) - {NOBODY, BACKDOOR})
    assert (row.tried, row.survived, row.lost) == (others, others - 1, 1)
    assert "fedavg 0.80, rfa 0.10; 0.80 unattacked" in row.figure
