"""What a site answers, and what of it never leaves."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation import message
from federation.codec import decode
from federation.coordinator import Coordinator
from federation.holding import Holding
from federation.home import Home
from federation.job import Job, Privacy
from federation.parts import under
from federation.policy import FACTS, Policy
from federation.site import Site
from tests.federation.sites import homes, job, write_blocks
from tests.training.tiny import volumetric

CANARY = "doe_jane_19500101"
BATCH_NORMED = {"architecture": "segviz_unet", "options": {"filters": [4, 4, 4, 4, 4]}}


def facts_of(body: bytes) -> dict[str, Any]:
    header, _ = message.unpack(body)
    assert header["kind"] == "done", header
    found: dict[str, Any] = header["facts"]
    return found


def canaries(out: Path, policy: Policy) -> Home:
    """A site whose folders and files name a patient."""
    data = write_blocks(out / CANARY / "data", 0, 5, prefix=CANARY)
    return Home("c1", out / CANARY / "state", (data,), out / "store", policy)


def network_of(made: Job, out: Path) -> set[str]:
    return set(Coordinator(made, out).reference)


@pytest.mark.parametrize("may_leave", [(), ("cases",), FACTS])
def test_nothing_leaves_a_site_but_its_update_and_what_its_policy_lists(
    may_leave: tuple[str, ...], tmp_path: Path
) -> None:
    recipe = volumetric(**BATCH_NORMED, patch=(32, 32, 32))
    made = job(recipe, weighting="equal", strategy="fedbn")
    site = Site(made, canaries(tmp_path, Policy(may_leave=may_leave)))
    server = Coordinator(made, tmp_path / "server")
    bodies = [site.handle(server.hello())]
    server.welcome("c1", bodies[0])
    bodies.append(site.handle(server.request("c1")))
    server.accept("c1", bodies[1], 1.0)
    server.close_round()
    bodies.append(site.handle(server.request("c1")))
    bodies.append(site.handle(server.score_request("round-1")))
    known = {"kind", "facts", "round", "attempt", "candidate"}
    for body in bodies:
        assert CANARY.encode() not in body
        assert str(tmp_path).encode() not in body
        header, arrays = message.unpack(body)
        assert set(header) <= known
        assert set(header["facts"]) <= set(may_leave)
        prefixes = {name.partition("/")[0] for name in arrays}
        assert prefixes <= {"update", "norms"} if "norms" in may_leave else prefixes <= {"update"}
    assert set(under("update/", message.unpack(bodies[1])[1])) - {"@scales"} == set(
        server.reference
    )


@pytest.mark.parametrize("damage", ["cut", "gone", "empty"])
def test_an_error_leaves_as_its_code_and_its_text_stays_in_the_sites_log(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = canaries(tmp_path, Policy())
    file = min((home.data[0] / "imagesTr").glob(f"{CANARY}*"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:400])
    elif damage == "gone":
        file.unlink()
    else:
        home = dataclasses.replace(home, data=(tmp_path / f"{CANARY}_2",))
        home.data[0].mkdir()
    with caplog.at_level(logging.ERROR, "islet.federation"):
        body = Site(job(), home).handle(Coordinator(job(), tmp_path / "server").hello())
    header, arrays = message.unpack(body)
    assert set(header) == {"kind", "code"}
    assert (header["kind"], arrays) == ("refused", {})
    assert CANARY in caplog.text


def test_a_job_against_the_policy_is_refused_by_its_code(tmp_path: Path) -> None:
    home = homes(tmp_path, policy=Policy(max_rounds=1))[0]
    body = Site(job(rounds=2), home).handle(Coordinator(job(), tmp_path / "server").hello())
    assert message.unpack(body)[0] == {"kind": "refused", "code": "policy_refused"}


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", message.pack({"kind": "delete"}, {}), message.pack({}, {})]
)
def test_what_is_no_request_is_refused(body: bytes, tmp_path: Path) -> None:
    answer = Site(job(), homes(tmp_path)[0]).handle(body)
    assert message.unpack(answer)[0] == {"kind": "refused", "code": "message_refused"}


def test_a_round_that_the_job_does_not_have_is_refused(tmp_path: Path) -> None:
    made = job(rounds=2)
    site, server = Site(made, homes(tmp_path)[0]), Coordinator(made, tmp_path / "server")
    header, arrays = message.unpack(server.request("c1"))
    for number in (-1, 2):
        answer = site.handle(message.pack({**header, "round": number}, arrays))
        assert message.unpack(answer)[0]["code"] == "message_refused"


def test_the_mean_of_weights_is_over_all_rounds_and_outlives_a_restart(tmp_path: Path) -> None:
    """Three of four steps, the first of them in the first round; averaged weights alone at last."""
    made = job(volumetric(averaged=0.75))
    ends = []
    for kind in ("one process", "killed between rounds"):
        home, server = homes(tmp_path / kind)[0], Coordinator(made, tmp_path / kind / "server")
        site = Site(made, home)
        server.accept("c1", site.handle(server.request("c1")), 1.0)
        server.close_round()
        again = site if kind == "one process" else Site(made, home)
        ends.append(again.handle(server.request("c1")))
        kept = Holding(site.folder).last()
        assert kept is not None
        assert kept.checkpoint.average["count"] == 3
        update = decode(under("update/", message.unpack(ends[-1])[1]))
        for name, mean in kept.checkpoint.average["mean"].items():
            found = kept.reference[name] + update[name]
            np.testing.assert_allclose(found, mean.numpy(), atol=1e-6)
    _same(*ends)


def test_a_round_asked_for_again_is_not_trained_again(tmp_path: Path) -> None:
    made = job()
    site, server = Site(made, homes(tmp_path)[0]), Coordinator(made, tmp_path / "server")
    first = site.handle(server.request("c1"))
    server.repeat_round()
    again = Site(made, site.home).handle(server.request("c1"))
    assert message.unpack(again)[0]["attempt"] == 2
    _same(first, again)


def test_noise_is_drawn_once_a_round(tmp_path: Path) -> None:
    made = job(privacy=Privacy(clip=1.0, noise=0.5))
    site, server = Site(made, homes(tmp_path)[0]), Coordinator(made, tmp_path / "server")
    first = site.handle(server.request("c1"))
    _same(first, site.handle(server.request("c1")))
    header, arrays = message.unpack(server.request("c1"))
    other = {name: np.asarray(a) + np.float32(1e-3) for name, a in arrays.items()}
    answer = site.handle(message.pack(header, other))
    assert message.unpack(answer)[0]["code"] == "policy_refused"


def test_noise_covers_the_update_and_no_norms_leave_beside_it(tmp_path: Path) -> None:
    recipe = volumetric(**BATCH_NORMED, patch=(32, 32, 32))
    made = job(recipe, strategy="fedbn", privacy=Privacy(clip=1e-3, noise=0.0), score_every=1)
    site, server = Site(made, homes(tmp_path)[0]), Coordinator(made, tmp_path / "server")
    body = site.handle(server.request("c1"))
    update = decode(under("update/", message.unpack(body)[1]))
    length = np.sqrt(sum(float((u.astype(np.float64) ** 2).sum()) for u in update.values()))
    assert length == pytest.approx(1e-3, rel=1e-3)
    server.accept("c1", body, 1.0)
    server.close_round()
    _, arrays = message.unpack(site.handle(server.request("c1")))
    assert not under("norms/", arrays)


def test_a_withdrawn_round_stops_and_can_be_trained_again(tmp_path: Path) -> None:
    made = job()
    site, server = Site(made, homes(tmp_path)[0]), Coordinator(made, tmp_path / "server")
    stopped = site.handle(server.request("c1"), stop=lambda: True)
    assert message.unpack(stopped)[0] == {"kind": "refused", "code": "cancelled"}
    late = site.handle(server.request("c1"))
    _same(late, Site(made, homes(tmp_path / "fresh")[0]).handle(server.request("c1")))


def test_a_difference_to_weights_that_a_site_lost_is_refused(tmp_path: Path) -> None:
    made = job()
    home, server = homes(tmp_path)[0], Coordinator(made, tmp_path / "server")
    server.accept("c1", Site(made, home).handle(server.request("c1")), 1.0)
    server.close_round()
    elsewhere = dataclasses.replace(home, folder=tmp_path / "new")
    answer = Site(made, elsewhere).handle(server.request("c1"))
    assert message.unpack(answer)[0]["code"] == "message_refused"


def test_five_cases_are_four_to_train_on_and_one_to_validate_on(tmp_path: Path) -> None:
    home = homes(tmp_path, count=4)[0]
    site = Site(job(), home)
    assert facts_of(site.handle(Coordinator(job(), tmp_path / "s").hello()))["cases"] == 4
    assert len(site._learning()._validation) == 1


def _same(a: bytes, b: bytes) -> None:
    """Equal but for what the time of day is in."""
    (first, tensors), (second, others) = message.unpack(a), message.unpack(b)
    drop: Mapping[str, Any] = {"seconds": None}
    assert first["facts"] | drop == second["facts"] | drop
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, others[name], name)
