"""Rounds among sites that come late, come back, are slow, fail or answer nonsense.

The server is the real one; the sites answer without training, so that every figure is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation import conduct as conducting
from federation import message
from federation.conduct import conduct, conduct_rounds
from federation.coordinator import Coordinator
from federation.exchange import Reply
from federation.job import Job
from imaging.errors import Cancelled, JobFailed
from tests.federation.sites import job

Answer = Callable[[dict[str, Any], Mapping[str, Any]], bytes | None]


def update(value: float, cases: int = 1, **facts: Any) -> Answer:
    """A site whose every weight moves by a value."""
    held: dict[str, Any] = {}

    def answer(header: dict[str, Any], arrays: Mapping[str, Any]) -> bytes:
        found = {"cases": cases, "annotated": ["pancreas"], "seconds": 1.0, **facts}
        tensors = {}
        if header["kind"] == "train":
            whole = {n: a for n, a in arrays.items() if n.startswith("weights/")}
            held.update({n.replace("weights/", "update/"): a for n, a in whole.items()})
            # What no site's encoder would write, NaN among it, arrives all the same.
            tensors = {n: np.full_like(a, value, np.float32) for n, a in held.items()}
            tensors["update/@scales"] = np.empty(0, np.float32)
        if header["kind"] == "score":
            found["scores"] = {"pancreas": 0.5}
        echo = {k: header[k] for k in ("round", "attempt", "candidate") if k in header}
        return message.pack({"kind": "done", "facts": found, **echo}, tensors)

    return answer


def refusing(code: str, kind: str = "train") -> Answer:
    """A site that refuses requests of a kind."""
    usual = update(1.0)

    def answer(header: dict[str, Any], arrays: Mapping[str, Any]) -> bytes | None:
        if header["kind"] == kind:
            return message.pack({"kind": "refused", "code": code}, {})
        return usual(header, arrays)

    return answer


class Sites:
    """An exchange whose sites follow a plan in a time of its own."""

    def __init__(self, answers: Mapping[str, Answer], seconds: Mapping[str, float] | None = None):
        self.answers, self.seconds = dict(answers), dict(seconds or {})
        self.now = 0.0
        self.visits = dict.fromkeys(self.answers, "1")
        self.events: list[tuple[float, Callable[[], None]]] = []
        self.asked: list[tuple[str, str, int | None]] = []
        self.withdrawn: list[str] = []
        self._due: dict[str, tuple[float, Reply]] = {}
        self.stop = False

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        self.events.append((seconds, event))

    def present(self) -> Mapping[str, str]:
        return dict(self.visits)

    def ask(self, site: str, request: bytes) -> None:
        header, arrays = message.unpack(request)
        self.asked.append((site, header["kind"], header.get("base")))
        reply = Reply(site, self.visits[site], self.answers[site](header, arrays))
        takes = self.seconds.get(site, 1.0) if header["kind"] == "train" else 0.1
        self._due[site] = (self.now + takes, reply)

    def receive(self, seconds: float) -> Reply | None:
        end = self.now + seconds
        for event in [e for e in self.events if e[0] <= end]:
            self.events.remove(event)
            event[1]()
        ready = sorted((due, site) for site, (due, _) in self._due.items() if due <= end)
        if not ready:
            self.now = end
            return None
        self.now = max(self.now, ready[0][0])
        return self._due.pop(ready[0][1])[1]

    def withdraw(self, site: str) -> None:
        self.withdrawn.append(site)
        self._due.pop(site, None)

    def stopped(self) -> bool:
        return self.stop

    def leave(self, site: str) -> None:
        self.visits.pop(site, None)
        self._due.pop(site, None)

    def come(self, site: str, answer: Answer | None = None) -> None:
        if answer is not None:
            self.answers[site] = answer
        self.visits[site] = str(int(self.visits.get(site, "1")) + 1)
        self._due.pop(site, None)


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a job without its export, which has tests of its own."""
    request = message.pack({"kind": "finish", "chosen": "round-1"}, {})
    monkeypatch.setattr(conducting, "finish", lambda coordinator: request)


def run(made: Job, sites: Sites, out: Path) -> Coordinator:
    server = Coordinator(made, out)
    conduct(server, sites, clock=lambda: sites.now)
    return server


def states(server: Coordinator) -> list[dict[str, str]]:
    return [{e.site: e.state for e in r.entries} for r in server.history().rounds]


def moved(server: Coordinator, made: Job, out: Path) -> float:
    """By how much the first weight moved over the job."""
    fresh = Coordinator(made, out).reference
    name = next(n for n in fresh if n.endswith("weight"))
    return float((server.reference[name] - fresh[name]).mean())


def test_updates_count_by_cases_or_alike(tmp_path: Path) -> None:
    answers = {"c1": update(1.0, cases=1), "c2": update(4.0, cases=2)}
    for index, (settings, expected) in enumerate(
        (
            ({"weighting": "cases"}, 6.0),
            ({"weighting": "equal"}, 5.0),
            # Sites that are not named count as before.
            ({"weighting": "cases", "weights": {"c1": 6}}, 3.5),
        )
    ):
        made = job(**settings)
        server = run(made, Sites(answers), tmp_path / f"{index}")
        assert moved(server, made, tmp_path / f"fresh-{index}") == pytest.approx(expected)


def test_after_the_first_round_only_differences_travel(tmp_path: Path) -> None:
    sites = Sites({"c1": update(1.0), "c2": update(1.0)})
    run(job(rounds=3), sites, tmp_path)
    assert [base for site, kind, base in sites.asked if (site, kind) == ("c1", "train")] == [
        None,
        0,
        1,
    ]


def test_a_site_that_comes_late_joins_the_round_under_way(tmp_path: Path) -> None:
    sites = Sites({"c1": update(1.0), "c2": update(1.0)}, {"c2": 20.0})
    sites.at(5.0, lambda: sites.come("c3", update(1.0)))
    server = run(job(), sites, tmp_path)
    assert states(server)[0] == dict.fromkeys(("c1", "c2", "c3"), "took part")


def test_a_round_begins_only_with_enough_sites_and_waits_for_them(tmp_path: Path) -> None:
    sites = Sites({"c1": update(1.0)})
    sites.at(50.0, lambda: sites.come("c2", update(1.0)))
    server = run(job(), sites, tmp_path)
    assert sites.now > 50
    assert states(server)[0] == {"c1": "took part", "c2": "took part"}


def test_a_killed_site_that_comes_back_is_asked_again_with_whole_weights(tmp_path: Path) -> None:
    sites = Sites({"c1": update(1.0), "c2": update(1.0)}, {"c2": 10.0})
    sites.at(15.0, lambda: sites.leave("c2"))  # in the second round
    sites.at(20.0, lambda: sites.come("c2"))
    server = run(job(), sites, tmp_path)
    assert states(server) == [{"c1": "took part", "c2": "took part"}] * 2
    asked = [(kind, base) for site, kind, base in sites.asked if site == "c2"]
    assert asked[:4] == [("hello", None), ("train", None), ("train", 0), ("hello", None)]
    assert asked[4] == ("train", None)


def test_a_killed_site_that_stays_away_does_not_stop_the_others(tmp_path: Path) -> None:
    sites = Sites({n: update(1.0) for n in ("c1", "c2", "c3")}, {"c3": 6.0})
    sites.at(9.0, lambda: sites.leave("c3"))
    server = run(job(rounds=3, grace_s=7.0), sites, tmp_path)
    assert states(server)[1] == {"c1": "took part", "c2": "took part", "c3": "failed"}
    assert states(server)[2] == {"c1": "took part", "c2": "took part"}
    assert 14 < sites.now < 20, "the round it left in waits the grace, the next does not"


def test_a_slow_site_is_waited_for_within_the_grace_and_left_behind_after_it(
    tmp_path: Path,
) -> None:
    answers = {n: update(1.0) for n in ("c1", "c2", "c3")}
    patient = run(job(), Sites(answers, {"c3": 20.0}), tmp_path / "patient")
    assert states(patient)[0]["c3"] == "took part"
    sites = Sites(answers, {"c3": 20.0})
    hasty = run(job(grace_s=5.0), sites, tmp_path / "hasty")
    assert states(hasty)[0] == {"c1": "took part", "c2": "took part", "c3": "late"}
    assert sites.withdrawn[0] == "c3"
    assert hasty.history().rounds[0].seconds >= 0


@pytest.mark.parametrize(
    ("bad", "state"),
    [
        (update(float("nan")), "refused: update_refused"),
        (update(float("inf")), "refused: update_refused"),
        (refusing("bad_case"), "refused: bad_case"),
        (
            lambda h, a: b"nonsense" if h["kind"] == "train" else update(1.0)(h, a),
            "refused: damaged",
        ),
        (lambda h, a: None if h["kind"] == "train" else update(1.0)(h, a), "failed"),
        (update(1.0, cases=-3), "refused: damaged"),
        (update(1.0, scores={"pancreas": 7.0}), "refused: damaged"),
        (update(1.0, scores={"<b>": 0.5}), "refused: damaged"),
        (update(1.0, annotated=["Jane Doe"]), "refused: damaged"),
        (refusing("<b>\n"), "refused: damaged"),
    ],
    ids=[
        *("nan", "infinite", "refused", "damaged", "failed", "negative-cases", "dice-of-7"),
        *("no-structure", "no-label", "no-code"),
    ],
)
def test_a_bad_update_is_left_out_and_the_round_goes_on(
    bad: Answer, state: str, tmp_path: Path
) -> None:
    good = {"c1": update(1.0), "c2": update(1.0)}
    made = job(rounds=1)

    def late_bloomer(header: dict[str, Any], arrays: Mapping[str, Any]) -> bytes | None:
        # A greeting is answered well; only facts of an update are wrong.
        return (update(1.0) if header["kind"] == "hello" else bad)(header, arrays)

    server = run(made, Sites({**good, "c3": late_bloomer}), tmp_path / "server")
    assert states(server)[0] == {"c1": "took part", "c2": "took part", "c3": state}
    assert moved(server, made, tmp_path / "fresh") == pytest.approx(1.0)


def test_an_update_of_another_shape_is_refused_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usual = update(1.0)

    def misshapen(header: dict[str, Any], arrays: Mapping[str, Any]) -> bytes | None:
        body = usual(header, arrays)
        if header["kind"] != "train" or body is None:
            return body
        head, tensors = message.unpack(body)
        name = next(n for n in tensors if n.endswith("weight"))
        return message.pack(head, {**tensors, name: np.zeros((1, 2), np.float32)})

    sites = Sites({"c1": update(1.0), "c2": update(1.0), "c3": misshapen})
    server = run(job(rounds=1), sites, tmp_path)
    assert states(server)[0]["c3"] == "refused: update_refused"
    assert "(1, 2)" in caplog.text


def test_a_site_whose_policy_refuses_the_job_is_not_asked_again(tmp_path: Path) -> None:
    sites = Sites({"c1": update(1.0), "c2": update(1.0), "c3": refusing("policy_refused", "hello")})
    server = run(job(), sites, tmp_path)
    assert [kind for site, kind, _ in sites.asked if site == "c3"] == ["hello"]
    assert states(server)[0]["c3"] == "refused: policy_refused"


def test_one_site_too_many_is_not_let_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sites = Sites({n: update(1.0) for n in ("c1", "c2", "c3")})
    server = run(job(max_sites=2), sites, tmp_path)
    assert states(server)[0] == {"c1": "took part", "c2": "took part"}
    assert not [site for site, _, _ in sites.asked if site == "c3"]
    assert "c3 is one site too many" in caplog.text


def test_a_site_that_lost_its_disk_gets_whole_weights_in_the_same_round(tmp_path: Path) -> None:
    usual, lost = update(1.0), itertools.count()

    def forgetful(header: dict[str, Any], arrays: Mapping[str, Any]) -> bytes | None:
        if header["kind"] == "train" and header["base"] is not None and next(lost) == 0:
            return message.pack({"kind": "refused", "code": "message_refused"}, {})
        return usual(header, arrays)

    sites = Sites({"c1": update(1.0), "c2": forgetful})
    server = run(job(), sites, tmp_path)
    assert states(server)[1] == {"c1": "took part", "c2": "took part"}
    assert [b for s, k, b in sites.asked if (s, k) == ("c2", "train")] == [None, 0, None]


def test_a_round_without_enough_updates_is_begun_anew_and_then_the_job_fails(
    tmp_path: Path,
) -> None:
    sites = Sites({"c1": update(1.0), "c2": refusing("bad_case")})
    made, out = job(round_timeout_s=20.0), tmp_path / "server"
    with pytest.raises(JobFailed, match="fewer than 2 sites in 3 attempts"):
        run(made, sites, out)
    told = [(r.number, r.attempt) for r in Coordinator(made, out).history().rounds]
    assert told == [(1, 1), (1, 2), (1, 3)]


def test_a_round_that_found_too_few_at_first_goes_on_when_they_come(tmp_path: Path) -> None:
    sites = Sites({"c1": update(1.0)})
    sites.at(130.0, lambda: sites.come("c2", update(1.0)))
    server = run(job(rounds=1), sites, tmp_path)
    assert [(r.number, r.attempt) for r in server.history().rounds] == [(1, 1), (1, 2)]
    assert states(server)[1] == {"c1": "took part", "c2": "took part"}


def test_a_job_that_is_stopped_ends_at_once(tmp_path: Path) -> None:
    sites = Sites({"c1": update(1.0)})

    def stop() -> None:
        sites.stop = True

    sites.at(3.0, stop)
    with pytest.raises(Cancelled):
        run(job(), sites, tmp_path)
    assert sites.now < 5


def test_every_site_scores_every_candidate_and_the_last_one_is_among_them(tmp_path: Path) -> None:
    scores = iter([0.9, 0.9])

    def scoring(header: dict[str, Any], arrays: Mapping[str, Any]) -> bytes | None:
        asked = header["kind"] == "train" and header["score"]
        facts = {"scores": {"pancreas": next(scores)}} if asked else {}
        return update(1.0, **facts)(header, arrays)

    # c2 scores no candidate on the way and is asked for all of them in the end.
    silent = update(1.0)
    sites = Sites({"c1": scoring, "c2": silent})
    server = run(job(), sites, tmp_path)
    matrix = server.history().matrix
    assert matrix is not None
    assert matrix.candidates == ("round-1", "round-2")
    assert matrix.scores["round-2"] == {"c1": {"pancreas": 0.5}, "c2": {"pancreas": 0.5}}
    assert set(matrix.scores["round-1"]) == {"c1", "c2"}
    assert [kind for site, kind, _ in sites.asked if site == "c1"].count("score") == 1


def test_a_server_that_was_killed_after_the_last_round_ends_the_job(tmp_path: Path) -> None:
    sites = Sites({"c1": update(1.0), "c2": update(1.0)})
    conduct_rounds(Coordinator(job(), tmp_path), sites)
    sites.asked.clear()
    # The sites come back one by one.
    sites.leave("c2")
    sites.at(5.0, lambda: sites.come("c2"))
    coordinator = Coordinator(job(), tmp_path)
    conduct(coordinator, sites)
    for site in ("c1", "c2"):
        kinds = [kind for s, kind, _ in sites.asked if s == site]
        assert kinds == ["hello", "score", "finish"]
    assert [made.number for made in coordinator.history().rounds] == [1, 2]
