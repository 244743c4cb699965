"""A job as one value: JSON both ways, and everything that is no job."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.job import CODECS, RULES, WEIGHTINGS, Job, Privacy, check_site
from imaging.errors import BadParameter
from tests.federation.sites import job
from tests.training.tiny import flat, volumetric

STEPS = {"steps": 4, "steps_per_epoch": 2}
POSITIVE = st.floats(1e-3, 1e6)
JOBS = st.builds(
    lambda rounds, extra, named, **changes: job(
        rounds=rounds,
        max_sites=changes["min_sites"] + extra,
        recipes={
            site: volumetric(name=site, steps=2 * rounds, steps_per_epoch=2, seed=1)
            for site in named
        },
        **changes,
    ),
    rounds=st.integers(1, 50),
    extra=st.integers(0, 5),
    named=st.sets(st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True), max_size=2),
    options=st.dictionaries(st.sampled_from(["mu", "lr"]), st.floats(0, 10)),
    start=st.sampled_from(["", "starter@global"]),
    weighting=st.sampled_from(WEIGHTINGS),
    weights=st.dictionaries(st.sampled_from(["c1", "c2"]), POSITIVE),
    label_aware=st.booleans(),
    min_sites=st.integers(1, 5),
    round_timeout_s=POSITIVE,
    grace_s=st.floats(0, 1e6),
    codec=st.sampled_from(CODECS),
    privacy=st.none() | st.builds(Privacy, POSITIVE, st.floats(0, 10), st.floats(1e-9, 0.5)),
    score_every=st.integers(1, 9),
    rule=st.sampled_from(RULES),
)


@given(JOBS)
def test_json_both_ways(made: Job) -> None:
    text = made.to_json()
    read = Job.from_json(text)
    assert read == made
    assert read.to_json() == text


def test_each_site_has_its_recipe() -> None:
    other = volumetric(name="other", **STEPS)
    made = job(recipes={"c2": other})
    assert made.recipe_of("c2") is other
    assert made.recipe_of("c1") is made.recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": "zip"}, "codec must be one of fp32, fp16, int8, not 'zip'"),
        ({"weighting": "sites"}, "weighting must be one of"),
        ({"weights": {"c1": 0}}, "c1 must count more than 0"),
        ({"weights": {"C 1": 1}}, "no name of a site"),
        ({"rule": "best"}, "rule must be one of"),
        ({"local_epochs": 0}, "at least 1"),
        ({"score_every": 0}, "at least 1"),
        ({"min_sites": 0}, "at least 1"),
        ({"min_sites": 3, "max_sites": 2}, "max_sites 2 is below min_sites 3"),
        ({"round_timeout_s": 0.0}, "round_timeout_s must be positive"),
        ({"round_timeout_s": float("nan")}, "round_timeout_s must be positive"),
        ({"grace_s": -1.0}, "grace_s not negative"),
        ({"local_epochs": 2}, "2 rounds of 2 epochs of 2 steps are 8 steps; tiny has 4"),
        ({"recipes": {"C 1": volumetric(**STEPS)}}, "'C 1' is no name of a site"),
        ({"recipes": {"c1": volumetric(steps=6, steps_per_epoch=2)}}, "are 4 steps; tiny has 6"),
        ({"name": "../other"}, "'../other' is no name of a job"),
        ({"name": ""}, "'' is no name of a job"),
        ({"recipes": {"c1": volumetric(options={"filters": [4, 8]}, **STEPS)}}, "has it with"),
        ({"recipes": {"c1": volumetric(outputs=("liver",), **STEPS)}}, "need local_head"),
        ({"recipes": {"c1": flat(**STEPS)}}, "tiny-flat has monet, not dynunet"),
        ({"recipe": volumetric(averaged=0.5), "strategy": "fedopt"}, "ends with the mean"),
    ],
)
def test_what_is_no_job_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        job(**changes)


def test_no_rounds_are_refused() -> None:
    made = job()
    with pytest.raises(BadParameter, match="at least 1"):
        dataclasses.replace(made, rounds=0)


@pytest.mark.parametrize(
    "figures",
    [(0.0, 1.0, 1e-5), (-1.0, 1.0, 1e-5), (1.0, -0.1, 1e-5), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0)]
    + [(float("inf"), 1.0, 1e-5), (1.0, float("inf"), 1e-5)]
    + [tuple(float("nan") if i == j else 0.5 for j in range(3)) for i in range(3)],
)
def test_privacy_out_of_range_is_refused(figures: tuple[float, float, float]) -> None:
    with pytest.raises(BadParameter, match=f"not {figures[0]}, {figures[1]} and {figures[2]}"):
        Privacy(*figures)


@pytest.mark.parametrize("name", ["c1", "north-clinic", "a", "a" * 32])
def test_names_of_sites(name: str) -> None:
    check_site(name)


@pytest.mark.parametrize(
    "name",
    ["", "C1", "1c", "-a", "a_b", "a.b", "../a", "a/b", "a b", "a\n", "é", "a" * 33, "nan", "null"],
)
def test_names_that_no_site_has(name: str) -> None:
    with pytest.raises(BadParameter, match="is no name of a site"):
        check_site(name)


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(job().to_json()), **values})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        changed(extra=1),
        changed(recipe={}),
        changed(recipe=None),
        changed(recipes=[]),
        changed(recipes={"c1": 3}),
        changed(privacy={"clip": 1.0}),
        changed(privacy={"clip": 1.0, "noise": 1.0, "seed": 3}),
        changed(privacy={"clip": "much", "noise": 1.0}),
        changed(rounds="two"),
        changed(grace_s=None),
        changed(codec=["fp32"]),
    ],
)
def test_json_that_is_no_job_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        Job.from_json(text)
