"""A site's policy: what it refuses, what it lets go, and a file with no silent mistakes."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from federation.job import CODECS, Job, Privacy
from federation.policy import FACTS, Policy
from imaging.errors import BadParameter, PolicyRefused
from tests.training.tiny import volumetric
from training.recipe import Recipe


def recipe(name: str = "tiny", steps: int = 4) -> Recipe:
    return dataclasses.replace(volumetric(), name=name, steps=steps, steps_per_epoch=1)


def job(**changes: Any) -> Job:
    """Two rounds of two epochs of one step."""
    fields: dict[str, Any] = {"name": "j", "recipe": recipe(), "rounds": 2, "local_epochs": 2}
    return Job(**fields | changes)


def test_the_defaults_let_a_usual_job_run() -> None:
    Policy().check(job(label_aware=True, codec="int8"))
    Policy().check(job(privacy=Privacy(1.0, 1.0)))


def test_the_defaults_keep_what_describes_images() -> None:
    assert set(FACTS) - set(Policy().may_leave) == {"norms", "local_model"}


@pytest.mark.parametrize(
    ("rules", "changes", "rule", "allowed", "asked"),
    [
        ({"recipes": ("monet", "wang2020")}, {}, "recipes", ["monet", "wang2020"], "tiny"),
        ({"recipes": ()}, {}, "recipes", [], "tiny"),
        ({"max_rounds": 1}, {}, "max_rounds", 1, 2),
        ({"max_local_epochs": 1}, {}, "max_local_epochs", 1, 2),
        ({"codecs": ("int8",)}, {}, "codecs", ["int8"], "fp32"),
        ({"min_noise": 0.5}, {}, "min_noise", 0.5, 0.0),
        ({"min_noise": 0.5}, {"privacy": Privacy(1, 0.4)}, "min_noise", 0.5, 0.4),
        ({"max_epsilon": 8.0}, {}, "max_epsilon", 8.0, "no bound"),
        ({"max_epsilon": 8.0}, {"privacy": Privacy(1, 0)}, "max_epsilon", 8.0, "no bound"),
        ({"may_leave": ("scores",)}, {}, "may_leave", ["scores"], "cases"),
        (
            {"may_leave": ("cases",)},
            {"label_aware": True},
            "may_leave",
            ["cases"],
            "annotated",
        ),
    ],
)
def test_a_refusal_names_the_rule_and_both_values(
    rules: dict[str, Any], changes: dict[str, Any], rule: str, allowed: object, asked: object
) -> None:
    with pytest.raises(PolicyRefused, match=rule) as refused:
        Policy(**rules).check(job(**changes))
    assert refused.value.details == {"rule": rule, "allowed": allowed, "asked": asked}
    assert str(asked) in refused.value.message
    json.dumps(refused.value.as_dict(), allow_nan=False)


def test_limits_themselves_are_allowed() -> None:
    Policy(
        recipes=("tiny",),
        max_rounds=2,
        max_local_epochs=2,
        codecs=("fp32",),
        min_noise=0.5,
        may_leave=("cases",),
    ).check(job(privacy=Privacy(1, 0.5)))
    Policy(may_leave=()).check(job(weighting="equal"))


def test_epsilon_is_that_of_all_rounds() -> None:
    policy = Policy(max_epsilon=8.0)
    one = job(recipe=recipe(steps=2), rounds=1, privacy=Privacy(1, 2.0))
    policy.check(one)
    many = dataclasses.replace(one, recipe=recipe(steps=20), rounds=10)
    with pytest.raises(PolicyRefused, match=r"max_epsilon: 8\.0"):
        policy.check(many)


def test_a_site_looks_at_its_own_recipe() -> None:
    mixed = job(recipes={"c1": recipe("liver"), "c2": recipe("spleen")})
    policy = Policy(recipes=("liver",))
    policy.check(mixed, "c1")
    with pytest.raises(PolicyRefused, match="spleen"):
        policy.check(mixed, "c2")
    with pytest.raises(PolicyRefused, match="tiny"):
        policy.check(mixed)


def test_only_listed_facts_leave() -> None:
    facts = {"cases": 12, "loss": 0.3, "norms": {"bn.mean": [0.1]}, "seconds": 4.0}
    assert Policy(may_leave=("cases", "norms")).outgoing(facts) == {
        "cases": 12,
        "norms": {"bn.mean": [0.1]},
    }
    assert Policy(may_leave=()).outgoing(facts) == {}
    assert Policy(may_leave=FACTS).outgoing(facts) == facts


@pytest.mark.parametrize("may_leave", [(), FACTS])
def test_a_fact_no_rule_speaks_of_does_not_leave(may_leave: tuple[str, ...]) -> None:
    with pytest.raises(PolicyRefused, match="case_names") as refused:
        Policy(may_leave=may_leave).outgoing({"cases": 1, "case_names": ["a", "b"]})
    assert refused.value.details["asked"] == "case_names"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_gives_its_rules_and_the_defaults(tmp_path: Path) -> None:
    path = written(
        tmp_path / "policy.toml",
        """
        recipes = ["monet"]       # nothing else is trained here
        max_rounds = 300
        min_noise = 1
        max_epsilon = 20.5
        may_leave = []
        """,
    )
    assert Policy.read(path) == Policy(
        recipes=("monet",), max_rounds=300, min_noise=1, max_epsilon=20.5, may_leave=()
    )
    assert Policy.read(written(path, "")) == Policy(("*",), codecs=CODECS, max_epsilon=math.inf)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_round = 3", "'max_round'"),
        ("[limits]\nmax_rounds = 3", "'limits'"),
        ("max_rounds = 0", "max_rounds.*0"),
        ("max_rounds = 3.5", "3.5"),
        ("max_rounds = true", "True"),
        ("max_local_epochs = [3]", "max_local_epochs"),
        ("recipes = '*'", "list of words"),
        ("recipes = [3]", "list of words"),
        ("codecs = ['int4']", "'int4'"),
        ("may_leave = ['scans']", "'scans'"),
        ("min_noise = -1.0", "-1.0"),
        ("min_noise = nan", "nan"),
        ("min_noise = '1'", "'1'"),
        ("min_noise = inf", "inf"),
        ("max_epsilon = 0.0", "0.0"),
        ("max_epsilon = nan", "nan"),
        ("max_rounds = ", "no readable policy"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadParameter, match=says):
        Policy.read(written(tmp_path / "policy.toml", text))


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=r"absent\.toml"):
        Policy.read(tmp_path / "absent.toml")
    (tmp_path / "policy.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadParameter, match="no readable policy"):
        Policy.read(tmp_path / "policy.toml")
