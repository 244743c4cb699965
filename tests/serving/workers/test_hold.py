"""A worker's hold on a job while the records are away."""

from __future__ import annotations

import threading

import pytest

from imaging.errors import Cancelled, RecordsAway
from serving.jobs.ledger import Claim
from serving.jobs.record import Job, State
from serving.workers import hold as hold_module
from serving.workers.hold import Hold, Verdict, insist


class Ledger:
    """Records that cannot be reached while ``away``."""

    def __init__(self) -> None:
        self.away = False
        self.told: bool | None = False
        self.beats = 0
        self.written: list[str] = []

    def _reach(self) -> None:
        if self.away:
            raise RecordsAway("The job records cannot be reached.")

    def look(self, claim: Claim) -> bool | None:
        self._reach()
        return self.told

    def beat(self, claim: Claim, step: str | None, part: float) -> bool | None:
        self.beats += 1
        return self.look(claim)

    def fail(self, claim: Claim, error: dict[str, object]) -> bool:
        self._reach()
        self.written.append(str(error["code"]))
        return True

    def give_back(self, claim: Claim) -> None:
        self.written.append("given back")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def hold(ledger: Ledger) -> Hold:
    job = Job("a", "segment", {}, "o", 0, State.RUNNING, 0.0, 0.0, attempts=1)
    halted: list[bool] = []
    leaving = threading.Event()
    return Hold(Claim(job, "w"), ledger, 3600, leaving, lambda: halted.append(True))  # type: ignore[arg-type]


def test_work_goes_on_through_a_short_absence(hold: Hold, ledger: Ledger) -> None:
    ledger.away = True
    assert not hold.tick()
    hold.progress("network", 0.5)
    ledger.away = False
    assert not hold.tick()
    assert hold.verdict is None


def test_work_stops_when_the_lease_may_have_run_out(
    hold: Hold, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_module, "LEASE_S", -1.0)
    ledger.away = True
    hold.tick()
    assert hold.verdict is Verdict.LOST
    with pytest.raises(Cancelled):
        hold.progress("network", 0.5)
    ledger.away = False
    hold.end(Cancelled("stopped"))
    assert ledger.written == [], "the job is not its own any more"


@pytest.mark.parametrize(
    ("told", "verdict", "written"),
    [(None, Verdict.LOST, []), (True, Verdict.CANCELLED, ["cancelled"])],
)
def test_what_the_records_say_is_heeded(
    hold: Hold, ledger: Ledger, told: bool | None, verdict: Verdict, written: list[str]
) -> None:
    ledger.told = told
    assert not hold.tick(), "there is time to stop"
    assert hold.verdict is verdict
    hold.end(ValueError())
    assert ledger.written == written


def test_work_that_does_not_stop_in_time_is_told(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold.leaving.set()
    assert not hold.tick()
    monkeypatch.setattr(hold_module, "GRACE_S", -1.0)
    assert hold.tick()


def test_what_ended_meanwhile_breaks_nothing_off(
    hold: Hold, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records say that a job is the worker's no more; what runs by then is the next one's."""
    halted: list[bool] = []
    hold.halt = lambda: halted.append(True)
    monkeypatch.setattr(hold_module, "GRACE_S", -1.0)

    def ended(claim: Claim) -> None:
        hold.close()

    monkeypatch.setattr(ledger, "look", ended)
    assert not hold.tick()
    assert not hold.tick(), "nor is the process ended for it"
    assert hold.verdict is Verdict.LOST
    assert not halted


def test_only_what_changed_is_written(hold: Hold, ledger: Ledger) -> None:
    for _ in range(3):
        hold.tick()
    assert ledger.beats == 0
    hold.progress("network", 0.5)
    for _ in range(3):
        hold.tick()
    assert ledger.beats == 1


def test_an_end_is_written_when_the_records_are_back(
    hold: Hold, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.away = True
    monkeypatch.setattr("time.sleep", lambda _: setattr(ledger, "away", False))
    hold.end(ValueError())
    assert ledger.written == ["internal_error"]
    monkeypatch.setattr(hold_module, "_INSIST_S", -1.0)
    ledger.away = True
    with pytest.raises(RecordsAway):
        insist(ledger._reach)
