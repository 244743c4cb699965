"""Bounds on who asks."""

from __future__ import annotations

import pytest

from imaging.errors import BadParameter, ServiceBusy
from serving.guard.bounds import Presence, Strikes
from serving.settings import Bounds


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(BadParameter, match="at_once is 0"):
        Bounds(at_once=0)


def test_requests_of_one_subject_are_bounded_and_others_go_on() -> None:
    presence = Presence(2)
    with presence.of("a"), presence.of("a"):
        with pytest.raises(ServiceBusy, match="2 requests") as refused, presence.of("a"):
            pytest.fail("let in")
        assert refused.value.details["retry_after_s"] == 1
        with presence.of("b"):
            pass
    with presence.of("a"):
        pass
    with pytest.raises(RuntimeError), presence.of("a"):
        raise RuntimeError
    assert not presence._inside


def test_wrong_tokens_of_one_address_are_counted_for_a_while() -> None:
    now = 0.0
    strikes = Strikes(2, 60, lambda: now)
    strikes.strike("10.0.0.1")
    now = 30.0
    strikes.strike("10.0.0.1")
    with pytest.raises(ServiceBusy) as refused:
        strikes.strike("10.0.0.1")
    assert refused.value.details["retry_after_s"] == 30
    strikes.strike("10.0.0.2")
    now = 60.0
    strikes.strike("10.0.0.1")


def test_one_party_is_one_ipv6_network() -> None:
    strikes = Strikes(1, 60, lambda: 0.0)
    strikes.strike("2001:db8::1")
    with pytest.raises(ServiceBusy):
        strikes.strike("2001:db8::ffff:2")
    strikes.strike("2001:db8:0:1::1")


def test_the_memory_of_wrong_tokens_is_bounded() -> None:
    strikes = Strikes(1, 60, lambda: 0.0, remembered=10)
    for number in range(1000):
        strikes.strike(f"10.0.{number // 256}.{number % 256}")
    strikes.strike("x" * 100_000)
    assert len(strikes._seen) == 10
    assert max(map(len, strikes._seen)) <= 64
